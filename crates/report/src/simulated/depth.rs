//! Queue depth over time in a bounded number of points: when there are too many, neighbours become one, so that a simulated day takes
//! no more room than a simulated minute.

use std::collections::BTreeMap;

use dualpool_types::artifact::PerRole;
use dualpool_types::records::EngineSample;
use dualpool_types::{Micros, Role};

/// Points per pool, at most.
const POINTS_MAX: usize = 400;

/// The samples of all engines come together, moment by moment.
pub(super) struct Depths {
    width: Micros,
    pools: BTreeMap<Role, Pool>,
    /// The moment that samples are coming of, and each pool's depth in it so far.
    moment: Micros,
    sums: BTreeMap<Role, u64>,
}

#[derive(Default)]
struct Pool {
    /// Of each stretch of `width`: the sum of depths, and how many.
    stretches: Vec<(f64, u32)>,
}

impl Depths {
    pub(super) fn new(sample_every: Micros) -> Depths {
        Depths { width: sample_every, pools: BTreeMap::new(), moment: Micros::ZERO, sums: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, sample: &EngineSample) {
        if sample.at_us != self.moment {
            self.settle();
            self.moment = sample.at_us;
        }
        *self.sums.entry(sample.role).or_default() += u64::from(sample.waiting) + u64::from(sample.running);
    }

    /// The moment is complete.
    fn settle(&mut self) {
        for (role, depth) in std::mem::take(&mut self.sums) {
            while self.moment.0 / self.width.0.max(1) >= POINTS_MAX as u64 {
                self.width = Micros(self.width.0.max(1) * 2);
                self.pools.values_mut().for_each(Pool::halve);
            }
            let at = (self.moment.0 / self.width.0.max(1)) as usize;
            let stretches = &mut self.pools.entry(role).or_default().stretches;
            stretches.resize(stretches.len().max(at + 1), (0.0, 0));
            stretches[at].0 += depth as f64;
            stretches[at].1 += 1;
        }
    }

    /// The mean over all moments in which the pool was looked at.
    pub(super) fn mean(&mut self) -> PerRole {
        self.settle();
        let of = |role| {
            let stretches = &self.pools.get(&role)?.stretches;
            let (sum, count) = stretches.iter().fold((0.0, 0), |(sum, count), s| (sum + s.0, count + s.1));
            (count > 0).then(|| sum / f64::from(count))
        };
        PerRole { prefill: of(Role::Prefill), decode: of(Role::Decode), shared: of(Role::Shared) }
    }

    /// Seconds, and the depth there. Stretches in which nothing was looked at are left out.
    pub(super) fn points(&mut self) -> BTreeMap<Role, Vec<[f64; 2]>> {
        self.settle();
        let width = self.width.as_secs();
        let points = |pool: &Pool| -> Vec<[f64; 2]> {
            let seen = pool.stretches.iter().enumerate().filter(|(_, (_, count))| *count > 0);
            seen.map(|(i, &(sum, count))| [i as f64 * width, sum / f64::from(count)]).collect()
        };
        self.pools.iter().map(|(&role, pool)| (role, points(pool))).collect()
    }
}

impl Pool {
    fn halve(&mut self) {
        self.stretches = self.stretches.chunks(2).map(|pair| pair.iter().fold((0.0, 0), |a, b| (a.0 + b.0, a.1 + b.1))).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::EngineId;

    fn sample(at: u64, engine: u16, role: Role, waiting: u32) -> EngineSample {
        let (engine, at_us) = (EngineId(engine), Micros(at));
        EngineSample {
            arm: String::new(),
            repetition: 0,
            at_us,
            engine,
            role,
            waiting,
            running: 1,
            kv_usage: None,
            prefix_hits: None,
            transfers_in: 0,
        }
    }

    #[test]
    fn a_pool_is_as_deep_as_its_engines_together() {
        let mut depths = Depths::new(Micros(1_000_000));
        for at in [0, 1_000_000, 2_000_000] {
            depths.add(&sample(at, 0, Role::Prefill, 2));
            depths.add(&sample(at, 1, Role::Prefill, at as u32 / 1_000_000));
            depths.add(&sample(at, 2, Role::Decode, 9));
        }
        assert_eq!(depths.points()[&Role::Prefill], [[0.0, 4.0], [1.0, 5.0], [2.0, 6.0]]);
        assert_eq!(depths.mean(), PerRole { prefill: Some(5.0), decode: Some(10.0), shared: None });
    }

    #[test]
    fn a_long_simulation_has_no_more_points_than_a_plot() {
        let mut depths = Depths::new(Micros(50_000));
        for i in 0..100_000 {
            depths.add(&sample(i * 50_000, 0, Role::Shared, (i % 2) as u32));
        }
        let points = &depths.points()[&Role::Shared];
        assert!((POINTS_MAX / 2..=POINTS_MAX).contains(&points.len()), "{}", points.len());
        assert!(points.iter().all(|[_, depth]| (depth - 1.5).abs() < 0.01), "no sample is lost");
        assert_eq!(depths.mean().shared, Some(1.5));
    }
}
