//! What a copy of KV costs between two engines: for each ordered pair what a calibration found, and how far serving is off it.
//!
//! ```text
//! copy(from, to, tokens) = level * min over the ways to copy of (fixed_us + us_per_token * tokens)
//! ```
//! The calibration gives the shape and how pairs compare, on an idle machine; the level is learnt from the copies that are seen, for a
//! mover that waits its turn, and a memory that engines read meanwhile, make all of them slower alike. A pair without a calibration
//! costs what the `CostModel` has learnt of all copies.

use dualpool_types::{CopyLine, EngineId, Micros};

/// Ways to copy that one pair may have; further ones are not looked at.
pub const COPY_LINES_MAX: usize = 4;

/// How far one copy moves the level towards itself.
const LEARNING_RATE: f64 = 0.05;
/// A copy is taken to be at most this far off the prediction, as a share of it: a page fault is not a trend.
const SURPRISE_MAX: f64 = 0.5;
/// A copy this long counts for half of what a very long one does: of a short one the clock and the scheduler say more than the link.
const HALF_WEIGHT_US: f64 = 100.0;
/// The level never falls below this share of the calibration, from where it could not learn to rise again.
const LEVEL_MIN: f64 = 0.05;

#[derive(Clone, Copy, Debug)]
struct Pair {
    lines: [CopyLine; COPY_LINES_MAX],
    /// Lines in use; 0 for a pair that was not measured.
    count: usize,
    level: f64,
}

impl Pair {
    const UNKNOWN: Pair = Pair { lines: [CopyLine { fixed_us: 0.0, us_per_token: 0.0 }; COPY_LINES_MAX], count: 0, level: 1.0 };

    fn calibrated(&self, tokens: f64) -> Option<f64> {
        self.lines[..self.count].iter().map(|line| line.at(tokens)).reduce(f64::min)
    }
}

/// All ordered pairs of a fleet's engines.
#[derive(Clone, Debug)]
pub struct CopyTable {
    engines: usize,
    pairs: Vec<Pair>,
}

impl CopyTable {
    pub fn new(engines: usize) -> CopyTable {
        CopyTable { engines, pairs: vec![Pair::UNKNOWN; engines * engines] }
    }

    fn place(&self, from: EngineId, to: EngineId) -> Option<usize> {
        let (from, to) = (from.index(), to.index());
        (from < self.engines && to < self.engines).then(|| from * self.engines + to)
    }

    /// Takes what was measured for a pair. Figures that would spoil a score are left out; engines that are not there are ignored.
    pub(crate) fn calibrate(&mut self, from: EngineId, to: EngineId, lines: &[CopyLine]) {
        let Some(place) = self.place(from, to) else { return };
        let mut pair = Pair::UNKNOWN;
        for (slot, line) in pair.lines.iter_mut().zip(lines.iter().filter(|line| line.is_sound())) {
            *slot = *line;
            pair.count += 1;
        }
        self.pairs[place] = pair;
    }

    /// Back to what the calibration said.
    pub(crate) fn forget_learnt(&mut self) {
        self.pairs.iter_mut().for_each(|pair| pair.level = 1.0);
    }

    /// Microseconds for the KV of so many tokens; none for a pair without a calibration.
    pub fn copy(&self, from: EngineId, to: EngineId, tokens: f64) -> Option<f64> {
        let pair = &self.pairs[self.place(from, to)?];
        pair.calibrated(tokens).map(|us| pair.level * us)
    }

    /// Learns from a copy of so many tokens.
    pub(crate) fn observe(&mut self, from: EngineId, to: EngineId, tokens: u32, took: Micros) {
        let Some(pair) = self.place(from, to).map(|place| &mut self.pairs[place]) else { return };
        let Some(calibrated) = pair.calibrated(tokens.into()).filter(|us| *us > 0.0 && tokens > 0) else { return };
        let bound = SURPRISE_MAX * pair.level;
        let off = (took.0 as f64 / calibrated - pair.level).clamp(-bound, bound);
        let weight = calibrated / (calibrated + HALF_WEIGHT_US);
        pair.level = (pair.level + LEARNING_RATE * weight * off).max(LEVEL_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: EngineId = EngineId(0);
    const B: EngineId = EngineId(1);

    fn table() -> CopyTable {
        let mut table = CopyTable::new(2);
        let direct = CopyLine { fixed_us: 10.0, us_per_token: 3.0 };
        let staged = CopyLine { fixed_us: 500.0, us_per_token: 1.0 };
        table.calibrate(A, B, &[direct, staged]);
        table
    }

    #[test]
    fn each_direction_has_its_own_cost_and_the_cheapest_way_counts() {
        let table = table();
        assert_eq!(table.copy(A, B, 100.0), Some(310.0));
        assert_eq!(table.copy(A, B, 1000.0), Some(1500.0));
        assert_eq!(table.copy(B, A, 100.0), None);
        assert_eq!(table.copy(A, EngineId(9), 100.0), None);
    }

    #[test]
    fn copies_correct_the_level_of_their_pair_and_a_stall_hardly_does() {
        let mut table = table();
        for _ in 0..400 {
            table.observe(A, B, 4000, Micros(9_000));
        }
        let learnt = table.copy(A, B, 4000.0).unwrap();
        assert!((learnt / 9_000.0 - 1.0).abs() < 0.01, "{learnt}");
        table.observe(A, B, 4000, Micros(60_000_000));
        assert!(table.copy(A, B, 4000.0).unwrap() < learnt * 1.05);
        table.forget_learnt();
        assert_eq!(table.copy(A, B, 4000.0), Some(4500.0));
    }

    #[test]
    fn a_short_copy_says_little_of_a_long_one() {
        let mut table = table();
        // 13 us predicted, 60 us seen: a thread woke up late.
        for _ in 0..20 {
            table.observe(A, B, 1, Micros(60));
        }
        assert!(table.copy(A, B, 4000.0).unwrap() < 4500.0 * 1.1);
    }

    #[test]
    fn figures_that_cannot_be_do_not_reach_a_score() {
        let mut table = table();
        let bad = [f64::NAN, f64::INFINITY, -1.0].map(|us_per_token| CopyLine { fixed_us: 1.0, us_per_token });
        table.calibrate(B, A, &bad);
        assert_eq!(table.copy(B, A, 10.0), None);
        table.calibrate(B, A, &[bad[0], CopyLine { fixed_us: 0.0, us_per_token: 0.0 }]);
        assert_eq!(table.copy(B, A, 10.0), Some(0.0));
        table.observe(B, A, 10, Micros(5));
        assert_eq!(table.copy(B, A, 10.0), Some(0.0));
    }
}
