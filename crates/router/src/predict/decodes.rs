//! How long decodes last, and so how many of those that run now will still run when a request that arrives now gets to decode.

use std::collections::BTreeMap;

use dualpool_types::{EngineId, Micros, Time};

/// What one decode that ends counts for in the typical duration.
const WEIGHT: f64 = 1.0 / 32.0;
/// Beginnings are kept to this precision, which bounds the memory: a predicted wait is never better than this.
const GRAIN: Micros = Micros(50_000);

/// The decodes under way on every engine, by when they began.
#[derive(Debug)]
pub(crate) struct Decodes {
    /// By engine: how many began in which grain of time.
    began: Vec<BTreeMap<u64, u32>>,
    lasts_us: Option<f64>,
    any_ended: bool,
}

impl Decodes {
    pub(crate) fn new(engines: usize) -> Decodes {
        Decodes { began: vec![BTreeMap::new(); engines], lasts_us: None, any_ended: false }
    }

    /// A decode begins that would last for so many microseconds if it ran to its last token. Until one has ended that is all there is to
    /// go by: a user asks for more tokens than most answers have.
    pub(crate) fn began(&mut self, engine: EngineId, at: Time, at_most_us: f64) {
        if !self.any_ended && at_most_us.is_finite() {
            self.learn(at_most_us);
        }
        *self.began[engine.index()].entry(at.0 / GRAIN.0).or_default() += 1;
    }

    /// A decode left its engine. One that was cut off by the engine's death does not say how long decodes last.
    pub(crate) fn ended(&mut self, engine: EngineId, began: Time, now: Time, cut_off: bool) {
        let of_engine = &mut self.began[engine.index()];
        let grain = began.0 / GRAIN.0;
        if let Some(count) = of_engine.get_mut(&grain) {
            *count -= 1;
            if *count == 0 {
                of_engine.remove(&grain);
            }
        }
        if !cut_off {
            self.any_ended = true;
            self.learn(now.since(began).0 as f64);
        }
    }

    fn learn(&mut self, lasted_us: f64) {
        let lasts = self.lasts_us.get_or_insert(lasted_us);
        *lasts += WEIGHT * (lasted_us - *lasts);
    }

    /// How long a decode lasts, in microseconds; none before one has begun.
    pub(crate) fn lasts(&self) -> Option<f64> {
        self.lasts_us
    }

    /// Of the decodes on this engine, those that still run `later` microseconds from now if each lasts for `lasts`. One that has
    /// outlived that already is of a longer kind, and is taken to have as long before it again.
    pub(crate) fn left(&self, engine: EngineId, now: Time, later: f64, lasts: f64) -> f64 {
        let now = now.0 as f64;
        let runs = |grain: u64| {
            let age = now - (grain * GRAIN.0) as f64;
            later < if age < lasts { lasts - age } else { lasts }
        };
        self.began[engine.index()].iter().filter(|&(&grain, _)| runs(grain)).map(|(_, &count)| f64::from(count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: EngineId = EngineId(0);

    #[test]
    fn what_runs_is_gone_when_it_has_lasted_as_long_as_decodes_do() {
        let mut decodes = Decodes::new(1);
        let secs = |s: u64| Time(s * 1_000_000);
        for began in 0..4 {
            decodes.began(A, secs(began), 4.5e6);
        }
        // At 4 s they have run for 4, 3, 2 and 1 s.
        let left = |later: f64| decodes.left(A, secs(4), later * 1e6, 4.5e6);
        assert_eq!([0.0, 1.0, 2.0, 3.0, 4.0].map(left), [4.0, 3.0, 2.0, 1.0, 0.0]);
        assert_eq!(decodes.left(A, secs(4), 0.4e6, 2.5e6), 4.0, "two outlived the others and go on");
    }

    #[test]
    fn durations_are_learnt_from_what_ends_by_itself() {
        let mut decodes = Decodes::new(1);
        assert_eq!(decodes.lasts(), None);
        for _ in 0..400 {
            decodes.began(A, Time(0), 6e6);
            assert!(decodes.lasts() <= Some(6e6));
            decodes.ended(A, Time(0), Time(2_000_000), false);
        }
        let lasts = decodes.lasts().unwrap();
        assert!((2e6..2.01e6).contains(&lasts), "{lasts}");
        decodes.began(A, Time(0), f64::NAN);
        decodes.ended(A, Time(0), Time(9_000_000), true);
        assert_eq!(decodes.lasts(), Some(lasts), "it was cut off");
        assert!(decodes.began[0].is_empty());
    }
}
