//! Long prompts to one pool, short ones to the other, each for its whole life; KV never moves.

use dualpool_types::Role;

use crate::fleet::FleetView;
use crate::placement::{Ask, Placement};

use super::policy::Policy;
use super::turn::Turn;

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
