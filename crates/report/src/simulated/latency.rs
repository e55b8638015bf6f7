//! Latencies as they come, in a histogram: its size depends on how far they spread and not on how many there are.

use hdrhistogram::Histogram;

use dualpool_types::Micros;

use super::Latency;
use crate::Curve;

/// A figure is within a thousandth of the value it stands for.
const DIGITS: u8 = 3;

pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // Fails only for more than five digits.
        let histogram = Histogram::new(DIGITS).unwrap_or_else(|error| unreachable!("{error}"));
        Latencies(histogram)
    }
}

impl Latencies {
    pub(crate) fn add(&mut self, latency: Micros) {
        // It grows as it must, up to the largest number there is. Where that fails the greatest of all stands for it.
        if self.0.record(latency.0).is_err() {
            self.0.saturating_record(latency.0);
        }
    }

    /// The quantiles alone.
    pub(crate) fn summary(&self) -> Latency {
        let count = self.0.len();
        let ms = |us: u64| us as f64 / 1e3;
        let quantile = |q: f64| (count > 0).then(|| ms(self.0.value_at_quantile(q)));
        Latency {
            p50: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
            max: (count > 0).then(|| ms(self.0.max())),
            curve: None,
        }
    }

    /// With the distribution.
    pub(crate) fn drawn(&self) -> Latency {
        let curve = Curve::of(self.0.len(), |share| self.0.value_at_quantile(share) as f64 / 1e3);
        Latency { curve: Some(curve), ..self.summary() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_came() {
        let mut latencies = Latencies::default();
        (1..=10_000).for_each(|i| latencies.add(Micros(i * 100)));
        let summary = latencies.summary();
        for (figure, exact) in [(summary.p50, 500.0), (summary.p95, 950.0), (summary.p99, 990.0), (summary.max, 1000.0)] {
            let figure = figure.unwrap();
            assert!((figure / exact - 1.0).abs() < 2e-3, "{figure} for {exact}");
        }
        assert_eq!(Latencies::default().summary(), Latency::default());
    }
}
