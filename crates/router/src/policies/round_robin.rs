//! All engines alike, in turn: what a proxy without signals does.

use crate::fleet::FleetView;
use crate::placement::{Ask, Placement};

use super::policy::Policy;
use super::turn::Turn;

#[derive(Default)]
pub(super) struct RoundRobin {
    turn: Turn,
}

impl Policy for RoundRobin {
    fn place(&mut self, fleet: &FleetView<'_>, _ask: &Ask) -> Option<Placement> {
        fleet.in_turn(self.turn.next()).map(|engine| Placement::Whole(engine.id))
    }
}
