//! Long prompts to one pool, short ones to the other, each for its whole life; KV never moves.

use dualpool_types::Role;

use super::{Ask, Placement, Policy, Turn};
use crate::FleetView;

#[derive(Default)]
pub(super) struct Dedicated {
    turn: Turn,
}

impl Policy for Dedicated {
    fn place(&mut self, fleet: &FleetView<'_>, ask: &Ask) -> Option<Placement> {
        let pool = if fleet.is_long(ask.prompt_tokens) { Role::Prefill } else { Role::Decode };
        fleet.least_of_pool(pool, self.turn.next(), |engine| fleet.work(engine)).map(|engine| Placement::Whole(engine.id))
    }
}
