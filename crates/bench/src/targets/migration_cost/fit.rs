//! Fits the cost of one class of copy to what was measured:
//!
//! ```text
//! time = submit_us + range_us * ranges + bytes / bytes_per_s        all three not negative
//! ```

use dualpool_kv::ClassCost;
use dualpool_types::Bytes;

use crate::fit;

/// What was measured of one plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Observed {
    pub bytes: Bytes,
    pub ranges: u32,
    pub us: f64,
}

/// Faster than any memory: what a class is given whose points show no cost of bytes.
const BYTES_PER_S_MAX: f64 = 1e15;
/// Bytes are fitted in units of this many, ranges in thousands, so that the sums stay of one size.
const BYTES_UNIT: f64 = 1_048_576.0;
const RANGES_UNIT: f64 = 1_000.0;

/// None without points, or when none of them took any time.
pub(super) fn fit(points: &[Observed]) -> Option<ClassCost> {
    let points: Vec<_> = points.iter().map(|point| (features(point), point.us)).collect();
    let [submit_us, thousand_ranges_us, mib_us] = fit::fit(&points)?;
    let bytes_per_s = if mib_us > 0.0 { (BYTES_UNIT / mib_us * 1e6).min(BYTES_PER_S_MAX) } else { BYTES_PER_S_MAX };
    Some(ClassCost { submit_us, range_us: thousand_ranges_us / RANGES_UNIT, bytes_per_s })
}

/// Share by which each prediction is off, ascending.
pub(super) fn errors(cost: &ClassCost, points: &[Observed]) -> Vec<f64> {
    let error = |point: &Observed| (cost.predict_us(point.bytes, point.ranges) / point.us - 1.0).abs();
    let mut errors: Vec<f64> = points.iter().map(error).collect();
    errors.sort_by(f64::total_cmp);
    errors
}

fn features(point: &Observed) -> [f64; 3] {
    [1.0, f64::from(point.ranges) / RANGES_UNIT, point.bytes.0 as f64 / BYTES_UNIT]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng as _;

    fn points(truth: &ClassCost, noise: f64) -> Vec<Observed> {
        let mut rng = dualpool_types::seeded(3, "fit");
        let plans = [1u32, 4, 16, 64, 256, 1024].into_iter().flat_map(|ranges| (10..22).map(move |log| (ranges, 1u64 << log)));
        let observed = |(ranges, bytes_each): (u32, u64)| {
            let bytes = Bytes(u64::from(ranges) * bytes_each);
            let off = 1.0 + noise * rng.random_range(-1.0..1.0);
            Observed { bytes, ranges, us: truth.predict_us(bytes, ranges) * off }
        };
        plans.map(observed).collect()
    }

    #[test]
    fn finds_what_made_the_points_through_noise_and_outliers() {
        let truth = ClassCost { submit_us: 6.0, range_us: 0.8, bytes_per_s: 2.4e10 };
        let mut points = points(&truth, 0.05);
        points.iter_mut().step_by(9).for_each(|point| point.us *= 20.0);
        let cost = fit(&points).unwrap();
        for (found, made) in
            [(cost.submit_us, truth.submit_us), (cost.range_us, truth.range_us), (cost.bytes_per_s, truth.bytes_per_s)]
        {
            assert!((found / made - 1.0).abs() < 0.1, "{cost:?}");
        }
        assert!(errors(&cost, &points)[points.len() / 2] < 0.06);
    }

    #[test]
    fn what_costs_nothing_is_never_negative() {
        let truth = ClassCost { submit_us: 0.0, range_us: 0.3, bytes_per_s: 1e10 };
        let cost = fit(&points(&truth, 0.1)).unwrap();
        assert!(cost.submit_us >= 0.0 && cost.range_us > 0.0, "{cost:?}");
        let constant = [1u64, 2, 3].map(|mib| Observed { bytes: Bytes::from_mib(mib), ranges: 1, us: 9.0 / mib as f64 });
        let cost = fit(&constant).unwrap();
        assert!(cost.bytes_per_s.is_finite() && cost.predict_us(Bytes::from_mib(2), 1) > 0.0, "{cost:?}");
    }

    #[test]
    fn points_that_cannot_tell_runs_from_bytes_still_predict_their_own_kind() {
        let same_bytes =
            [1u32, 8, 64].map(|ranges| Observed { bytes: Bytes(4096 * u64::from(ranges)), ranges, us: 2.0 * f64::from(ranges) });
        let cost = fit(&same_bytes).unwrap();
        assert!((cost.predict_us(Bytes(4096 * 20), 20) / 40.0 - 1.0).abs() < 0.05, "{cost:?}");
        assert_eq!(fit(&[]), None);
        assert_eq!(fit(&[Observed { bytes: Bytes(1), ranges: 1, us: 0.0 }]), None);
    }
}
