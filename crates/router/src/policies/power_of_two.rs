//! All engines alike; two are drawn, and the less loaded one wins. Two choices at random are almost as good as all of them (M.
//! Mitzenmacher, "The power of two choices in randomized load balancing", 2001), and no stale signal can draw a herd to one engine.

use dualpool_types::PolicyKind;

use crate::fleet::{EngineState, FleetView};
use crate::placement::{Ask, Placement};

use super::draws::Draws;
use super::policy::Policy;

pub(super) struct PowerOfTwo {
    draws: Draws,
}

impl PowerOfTwo {
    pub(super) fn new(seed: u64) -> PowerOfTwo {
        PowerOfTwo { draws: Draws::new(seed, PolicyKind::PowerOfTwo) }
    }
}

impl Policy for PowerOfTwo {
    fn place(&mut self, fleet: &FleetView<'_>, _ask: &Ask) -> Option<Placement> {
        // An engine whose device is lost would be drawn as often as any other, and win half of the time.
        let sound = |engine: &&EngineState| engine.takes_work() && !engine.device_lost(fleet.now);
        let count = fleet.engines.iter().filter(sound).count();
        if count == 0 {
            return fleet.least(None, 0, |engine| fleet.burden(engine)).map(|engine| Placement::Whole(engine.id));
        }
        let first = self.draws.below(count);
        let second = if count > 1 { (first + 1 + self.draws.below(count - 1)) % count } else { first };
        let drawn = |place: usize| fleet.engines.iter().filter(sound).nth(place).map(|engine| engine.id);
        let drawn = [drawn(first), drawn(second)];
        // Counted from the first one drawn, so that of two equals neither is preferred.
        let start = drawn[0].map_or(0, |engine| engine.index());
        let winner = fleet.least_where(|engine| drawn.contains(&Some(engine.id)), start, |engine| fleet.burden(engine));
        winner.map(|engine| Placement::Whole(engine.id))
    }
}
