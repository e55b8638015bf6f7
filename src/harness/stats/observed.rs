//! One arm's records, laid out so that its metrics under a draw cost one walk along each of its sorted samples.

use super::bootstrap::{Draw, Sorted};
use super::metric::METRICS;
use crate::core::{Class, Micros};
use crate::report::measure::{is_done, itls_ms, ttft_ms, within_objectives};
use crate::telemetry::RequestRecord;

/// The values of all metrics, in the order of `METRICS`; none where there was nothing to measure.
pub(super) type Figures = [Option<f64>; METRICS.len()];

#[derive(Debug)]
pub(super) struct Observed {
    ttft: Sorted,
    ttft_short: Sorted,
    ttft_long: Sorted,
    itl: Sorted,
    /// By slot: whether there was a request, and whether it was within its objectives.
    served: Vec<bool>,
    good: Vec<bool>,
    /// By repetition: the time from the first arrival to the last end, and the requests completed in it.
    span_s: Vec<f64>,
    done: Vec<u32>,
}

impl Observed {
    /// `repetitions[r]` are the arm's requests in the r-th repetition; a request's slot is `first_slot[r]` + its index.
    pub fn new(repetitions: &[Vec<&RequestRecord>], first_slot: &[u32], slots: usize) -> Observed {
        let placed =
            || repetitions.iter().zip(first_slot).flat_map(|(requests, first)| requests.iter().map(move |r| (*r, first + r.index)));
        let ttft = |keep: fn(Class) -> bool| {
            let values = placed().filter(|(r, _)| keep(r.class)).filter_map(|(r, slot)| Some((ttft_ms(r)?, slot)));
            Sorted::new(values.collect(), slots)
        };
        let (mut served, mut good) = (vec![false; slots], vec![false; slots]);
        for (request, slot) in placed() {
            served[slot as usize] = true;
            good[slot as usize] = within_objectives(request);
        }
        Observed {
            ttft: ttft(|_| true),
            ttft_short: ttft(|class| class == Class::Short),
            ttft_long: ttft(|class| class == Class::Long),
            itl: Sorted::new(placed().flat_map(|(r, slot)| itls_ms(r).map(move |itl| (itl, slot))).collect(), slots),
            served,
            good,
            span_s: repetitions.iter().map(|requests| span(requests).as_secs()).collect(),
            done: repetitions.iter().map(|requests| requests.iter().filter(|r| is_done(r)).count() as u32).collect(),
        }
    }

    pub fn figures(&self, draw: &Draw) -> Figures {
        let [overall_p50, overall_p95] = self.ttft.quantiles(draw, [0.5, 0.95]);
        let [short_p95] = self.ttft_short.quantiles(draw, [0.95]);
        let [long_p95] = self.ttft_long.quantiles(draw, [0.95]);
        let [itl_p50, itl_p99] = self.itl.quantiles(draw, [0.5, 0.99]);
        let (throughput, completion) = self.runs(draw);
        [short_p95, overall_p50, overall_p95, long_p95, itl_p50, itl_p99, throughput, self.goodput_share(draw), completion]
    }

    fn goodput_share(&self, draw: &Draw) -> Option<f64> {
        let (mut served, mut good) = (0u64, 0u64);
        for (slot, weight) in draw.slots.iter().enumerate() {
            served += u64::from(*weight) * u64::from(self.served[slot]);
            good += u64::from(*weight) * u64::from(self.good[slot]);
        }
        (served > 0).then(|| good as f64 / served as f64)
    }

    /// Throughput (requests per second) and completion time (ms). They belong to whole runs, so only repetitions are drawn.
    fn runs(&self, draw: &Draw) -> (Option<f64>, Option<f64>) {
        let weighted = |values: &mut dyn Iterator<Item = f64>| -> f64 {
            values.zip(&draw.repetitions).map(|(value, weight)| value * f64::from(*weight)).sum()
        };
        let span_s = weighted(&mut self.span_s.iter().copied());
        let done = weighted(&mut self.done.iter().map(|n| f64::from(*n)));
        let runs: u32 = draw.repetitions.iter().sum();
        if runs == 0 || span_s <= 0.0 { (None, None) } else { (Some(done / span_s), Some(span_s * 1e3 / f64::from(runs))) }
    }
}

fn span(requests: &[&RequestRecord]) -> Micros {
    let first = requests.iter().map(|r| r.arrived_us).min().unwrap_or_default();
    requests.iter().map(|r| r.ended_us).max().unwrap_or_default() - first
}
