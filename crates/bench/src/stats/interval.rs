//! 95 % intervals of a ratio.

use dualpool_report::measure::quantile;

/// An interval leaves out this share of what is likely, half at each end.
const LEFT_OUT: f64 = 0.05;

/// When more than this share of the resamples had nothing to measure, nothing is said.
const MISSING_SHARE_MAX: f64 = 0.05;

/// Student's t at 97.5 %, by degrees of freedom from 1. Beyond the table its last value is used, which is a little wide.
const STUDENT_T: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

/// A measured ratio and its interval. Infinite where the baseline is 0 and the candidate is not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
}

/// Candidate / baseline; nothing of nothing is no difference.
pub(super) fn ratio(candidate: f64, baseline: f64) -> f64 {
    if candidate == baseline { 1.0 } else { candidate / baseline }
}

/// The interval that holds the middle of the resampled ratios. A ratio is none where a resample had nothing to measure.
pub(super) fn of_resamples(ratio: f64, resamples: impl Iterator<Item = Option<f64>>) -> Option<Measured> {
    let mut all = 0;
    let mut ratios: Vec<f64> = resamples.inspect(|_| all += 1).flatten().collect();
    if (all - ratios.len()) as f64 > MISSING_SHARE_MAX * all as f64 {
        return None;
    }
    ratios.sort_by(f64::total_cmp);
    Some(Measured { ratio, low: quantile(&ratios, LEFT_OUT / 2.0)?, high: quantile(&ratios, 1.0 - LEFT_OUT / 2.0)? })
}

/// The interval from one ratio per repetition: Student's t over their logarithms. Resampling would not do here, because two or
/// three values lie on one side of 1 by mere chance far too often. One repetition says nothing, nor does a ratio of 0.
pub(super) fn of_repetitions(ratio: f64, ratios: &[f64]) -> Option<Measured> {
    let logs: Vec<f64> = ratios.iter().map(|r| r.ln()).collect();
    let freedom = logs.len().checked_sub(1).filter(|&n| n > 0)?;
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let variance = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / freedom as f64;
    let reach = STUDENT_T[freedom.min(STUDENT_T.len()) - 1] * (variance / logs.len() as f64).sqrt();
    let measured = Measured { ratio, low: ratio * (-reach).exp(), high: ratio * reach.exp() };
    (ratio.is_finite() && reach.is_finite()).then_some(measured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::seeded;
    use proptest::prelude::*;
    use rand_distr::{Distribution, Normal};

    #[test]
    fn the_middle_of_the_resamples() {
        let resamples = || (1..=1000).map(|i| Some(f64::from(i)));
        assert_eq!(of_resamples(7.0, resamples()), Some(Measured { ratio: 7.0, low: 25.0, high: 975.0 }));
        assert_eq!(of_resamples(1.0, resamples().chain(vec![None; 100])), None);
        assert_eq!(of_resamples(1.0, std::iter::empty()), None);
    }

    #[test]
    fn one_repetition_or_a_ratio_of_nothing_says_nothing() {
        assert_eq!(of_repetitions(1.1, &[1.1]), None);
        assert_eq!(of_repetitions(0.5, &[0.0, 1.0]), None);
        assert_eq!(of_repetitions(1.0, &[1.0, 1.0, 1.0]), Some(Measured { ratio: 1.0, low: 1.0, high: 1.0 }));
    }

    /// The promise of the interval, kept with as few as two repetitions: it misses the truth about once in twenty.
    #[test]
    fn few_repetitions_still_cover_the_truth() {
        let noise = Normal::<f64>::new(0.0, 0.05).unwrap();
        for repetitions in [2, 3, 5] {
            let mut rng = seeded(7, "interval");
            let missed = (0..2000)
                .filter(|_| {
                    let ratios: Vec<f64> = (0..repetitions).map(|_| noise.sample(&mut rng).exp()).collect();
                    let middle = (ratios.iter().map(|r| r.ln()).sum::<f64>() / f64::from(repetitions)).exp();
                    of_repetitions(middle, &ratios).is_none_or(|m| m.low > 1.0 || m.high < 1.0)
                })
                .count();
            assert!((60..140).contains(&missed), "{repetitions} repetitions, seed 7: missed {missed} of 2000 instead of about 100");
        }
    }

    proptest! {
        #[test]
        fn intervals_hold_their_ratio(ratios in prop::collection::vec(0.1..10.0f64, 2..12)) {
            let middle = (ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64).exp();
            let m = of_repetitions(middle, &ratios).unwrap();
            prop_assert!(m.low <= m.ratio && m.ratio <= m.high);
        }
    }
}
