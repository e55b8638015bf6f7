//! A distribution as a plot shows it, from samples or from the few points that are kept of very many.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::measure::quantile;

/// Points of a kept curve.
const POINTS: usize = 240;

/// Up to here a kept curve goes. More than plots show.
const SHARE_MAX: f64 = 0.9999;

/// What a plot of a distribution asks for.
pub(crate) trait Distribution {
    fn count(&self) -> u64;
    /// The smallest value that at least this share of all does not exceed.
    fn quantile(&self, share: f64) -> Option<f64>;
    /// The smallest value over 0, and the greatest: what a logarithmic axis must hold.
    fn range(&self) -> Option<(f64, f64)>;
}

/// Sorted samples.
impl Distribution for Vec<f64> {
    fn count(&self) -> u64 {
        self.len() as u64
    }

    fn quantile(&self, share: f64) -> Option<f64> {
        quantile(self, share)
    }

    fn range(&self) -> Option<(f64, f64)> {
        Some((*self.iter().find(|value| **value > 0.0)?, *self.last()?))
    }
}

/// Points of a distribution: evenly apart in the distance to 1 on a logarithmic scale, as tails are drawn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Curve {
    /// The number of samples.
    pub count: u64,
    /// The points, each the share and the value that this share of the samples does not exceed.
    pub points: Vec<[f64; 2]>,
}

impl Curve {
    pub fn of(count: u64, quantile: impl Fn(f64) -> f64) -> Curve {
        if count == 0 {
            return Curve::default();
        }
        let most = (1.0 - 1.0 / count as f64).min(SHARE_MAX);
        let share = |i: usize| 1.0 - (1.0 - most).powf(i as f64 / POINTS as f64);
        Curve { count, points: (0..=POINTS).map(|i| [share(i), quantile(share(i))]).collect() }
    }
}

impl Distribution for Curve {
    fn count(&self) -> u64 {
        self.count
    }

    fn quantile(&self, share: f64) -> Option<f64> {
        let next = self.points.partition_point(|[at, _]| *at < share);
        let Some(&[above, high]) = self.points.get(next) else { return self.points.last().map(|[_, value]| *value) };
        // On a line between the two points around it.
        let [below, low] = self.points[next.saturating_sub(1)];
        let part = if above > below { (share - below) / (above - below) } else { 1.0 };
        Some(low + (high - low) * part)
    }

    fn range(&self) -> Option<(f64, f64)> {
        let values = self.points.iter().map(|[_, value]| *value);
        Some((values.clone().find(|value| *value > 0.0)?, values.max_by(f64::total_cmp)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_curve_says_what_the_samples_say() {
        let samples: Vec<f64> = (1..=5000).map(f64::from).collect();
        let curve = Curve::of(5000, |share| quantile(&samples, share).unwrap());
        assert_eq!((curve.count(), curve.points.len()), (samples.count(), POINTS + 1));
        for share in [0.02, 0.5, 0.9, 0.99, 0.999] {
            let (kept, exact) = (curve.quantile(share).unwrap(), samples.quantile(share).unwrap());
            assert!((kept - exact).abs() <= 2.0, "{share}: {kept} for {exact}");
        }
        assert_eq!(Distribution::range(&Curve::default()), None);
    }
}
