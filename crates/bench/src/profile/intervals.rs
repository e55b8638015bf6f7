//! Sets of stretches of time.

use super::{DeviceUse, Idle};

/// Stretches that neither touch nor overlap, in order; in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Intervals(Vec<(u64, u64)>);

impl FromIterator<(u64, u64)> for Intervals {
    /// From stretches `(start, end)` in any order, which may overlap.
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(stretches: I) -> Intervals {
        let mut sorted: Vec<(u64, u64)> = stretches.into_iter().filter(|(start, end)| start < end).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (start, end) in sorted {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        Intervals(merged)
    }
}

impl Intervals {
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// From the first start to the last end.
    pub(super) fn span(&self) -> u64 {
        self.0.first().zip(self.0.last()).map_or(0, |(first, last)| last.1 - first.0)
    }

    pub(super) fn union(&self, other: &Intervals) -> Intervals {
        self.0.iter().chain(&other.0).copied().collect()
    }

    pub(super) fn intersection(&self, other: &Intervals) -> Intervals {
        let (mut common, mut a, mut b) = (Vec::new(), self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(&&(a_start, a_end)), Some(&&(b_start, b_end))) = (a.peek(), b.peek()) {
            common.push((a_start.max(b_start), a_end.min(b_end)));
            if a_end < b_end {
                a.next()
            } else {
                b.next()
            };
        }
        common.into_iter().collect()
    }

    fn gaps(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.windows(2).map(|pair| pair[1].0 - pair[0].1)
    }
}

/// What a device that was active in these `runs` did: their times are not comparable, so gaps between runs are none.
pub(super) fn device_use(device: &str, runs: &[Intervals], gap_ns_min: u64) -> DeviceUse {
    let us = |ns: u64| ns as f64 / 1e3;
    let span: u64 = runs.iter().map(Intervals::span).sum();
    let busy: u64 = runs.iter().map(Intervals::total).sum();
    let gaps = || runs.iter().flat_map(Intervals::gaps);
    DeviceUse {
        device: device.to_owned(),
        span_us: us(span),
        busy_us: us(busy),
        kernel_us: None,
        copy_us: None,
        overlap_us: None,
        overlap_share: None,
        idle: Idle {
            gap_us_min: us(gap_ns_min),
            gaps: gaps().filter(|&gap| gap >= gap_ns_min).count() as u64,
            total_us: us(span - busy),
            longest_us: us(gaps().max().unwrap_or(0)),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(stretches: &[(u64, u64)]) -> Intervals {
        stretches.iter().copied().collect()
    }

    #[test]
    fn overlapping_and_touching_stretches_are_one() {
        assert_eq!(set(&[(5, 9), (0, 2), (2, 4), (6, 7), (3, 3)]), Intervals(vec![(0, 4), (5, 9)]));
    }

    #[test]
    fn gaps_shorter_than_the_least_are_idle_time_but_no_gap() {
        let used = device_use("d", &[set(&[(0, 10_000), (11_000, 20_000), (50_000, 60_000)])], 10_000);
        assert_eq!((used.span_us, used.busy_us), (60.0, 29.0));
        assert_eq!((used.idle.gaps, used.idle.total_us, used.idle.longest_us), (1, 31.0, 30.0));
    }

    #[test]
    fn there_is_no_gap_between_runs() {
        let used = device_use("d", &[set(&[(0, 1_000)]), set(&[(900_000, 901_000)])], 1);
        assert_eq!((used.span_us, used.idle.gaps, used.idle.total_us), (2.0, 0, 0.0));
    }

    proptest! {
        /// Against the same sets, second by second.
        #[test]
        fn sets_agree_with_counting(a in prop::collection::vec((0u64..40, 0u64..8), 0..12), b in prop::collection::vec((0u64..40, 0u64..8), 0..12)) {
            let stretches = |pairs: &[(u64, u64)]| pairs.iter().map(|(start, length)| (*start, start + length)).collect::<Vec<_>>();
            let (a, b) = (stretches(&a), stretches(&b));
            let within = |pairs: &[(u64, u64)], t: u64| pairs.iter().any(|(start, end)| (*start..*end).contains(&t));
            let counted = |f: &dyn Fn(u64) -> bool| (0..64).filter(|&t| f(t)).count() as u64;
            let (x, y) = (set(&a), set(&b));
            prop_assert_eq!(x.total(), counted(&|t| within(&a, t)));
            prop_assert_eq!(x.union(&y).total(), counted(&|t| within(&a, t) || within(&b, t)));
            prop_assert_eq!(x.intersection(&y).total(), counted(&|t| within(&a, t) && within(&b, t)));
        }
    }
}
