//! All engines alike; the one that would be done soonest with all it was given, dispatched and not yet reported included. That credit
//! is what cures the herd: with reports alone, all arrivals between two of them pick the same engine.

use super::{Ask, Plan, Policy, Turn};
use crate::router::FleetView;

/// Microseconds of work that a KV cache filled to one half counts for. As the cache fills, the term grows without bound.
const KV_PRESSURE_US: f64 = 150_000.0;

#[derive(Default)]
pub(super) struct LeastLoad {
    turn: Turn,
}

impl Policy for LeastLoad {
    fn place(&mut self, fleet: &FleetView<'_>, _ask: &Ask) -> Option<Plan> {
        let score = |engine: &crate::router::EngineState| {
            let kv = engine.kv_usage().min(0.999);
            fleet.work(engine) + KV_PRESSURE_US * kv / (1.0 - kv)
        };
        fleet.least(None, self.turn.next(), score).map(|engine| Plan::Whole(engine.id))
    }
}
