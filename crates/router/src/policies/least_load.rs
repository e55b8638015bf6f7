//! All engines alike; the one that would be done soonest with all it was given, dispatched and not yet reported included. That credit
//! is what cures the herd: with reports alone, all arrivals between two of them pick the same engine.

use crate::fleet::FleetView;
use crate::placement::{Ask, Placement};

use super::policy::Policy;
use super::turn::Turn;

#[derive(Default)]
pub(super) struct LeastLoad {
    turn: Turn,
}

impl Policy for LeastLoad {
    fn place(&mut self, fleet: &FleetView<'_>, _ask: &Ask) -> Option<Placement> {
        fleet.least(None, self.turn.next(), |engine| fleet.burden(engine)).map(|engine| Placement::Whole(engine.id))
    }
}
