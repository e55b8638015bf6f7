//! One arm's records, laid out so that its metrics under a draw cost one walk along each of its sorted samples.

use dualpool_report::measure::{Repetitions, is_done, itls_ms, ttft_ms, within_objectives};
use dualpool_types::records::RequestRecord;
use dualpool_types::{Class, Wave};

use super::bootstrap::{Draw, Sorted};
use super::metric::{REQUEST_METRICS, RUN_METRICS};

/// With fewer repetitions nothing is said about requests.
const REPETITIONS_MIN: usize = 2;

/// The values of `REQUEST_METRICS`; none where there was nothing to measure.
pub(super) type RequestFigures = [Option<f64>; REQUEST_METRICS.len()];

#[derive(Debug)]
pub(super) struct Observed {
    ttft: Sorted,
    ttft_short: Sorted,
    ttft_long: Sorted,
    ttft_foreground: Sorted,
    itl: Sorted,
    /// By slot: whether there was a request, and whether it was within its objectives.
    served: Vec<bool>,
    good: Vec<bool>,
    repetitions: Repetitions,
    /// Whether any request came to no good end.
    failed: bool,
}

impl Observed {
    /// `repetitions[r]` are the arm's requests in the r-th repetition; a request's slot is `first_slot[r]` + its index.
    pub fn new(repetitions: &[Vec<&RequestRecord>], first_slot: &[u32], slots: usize) -> Observed {
        let placed =
            || repetitions.iter().zip(first_slot).flat_map(|(requests, first)| requests.iter().map(move |r| (*r, first + r.index)));
        let ttft = |keep: fn(&RequestRecord) -> bool| {
            let values = placed().filter(|(r, _)| keep(r)).filter_map(|(r, slot)| Some((ttft_ms(r)?, slot)));
            Sorted::new(values.collect(), slots)
        };
        let (mut served, mut good) = (vec![false; slots], vec![false; slots]);
        for (request, slot) in placed() {
            served[slot as usize] = true;
            good[slot as usize] = within_objectives(request);
        }
        Observed {
            ttft: ttft(|_| true),
            ttft_short: ttft(|r| r.class == Class::Short),
            ttft_long: ttft(|r| r.class == Class::Long),
            ttft_foreground: ttft(|r| r.wave == Some(Wave::Foreground)),
            itl: Sorted::new(placed().flat_map(|(r, slot)| itls_ms(r).map(move |itl| (itl, slot))).collect(), slots),
            served,
            good,
            repetitions: Repetitions::of(placed().map(|(r, _)| r)),
            failed: placed().any(|(r, _)| !is_done(r)),
        }
    }

    pub fn requests(&self, draw: &Draw) -> RequestFigures {
        let [overall_p50, overall_p95] = self.ttft.quantiles(draw, [0.5, 0.95]);
        let [short_p95] = self.ttft_short.quantiles(draw, [0.95]);
        let [long_p95] = self.ttft_long.quantiles(draw, [0.95]);
        let [itl_p50, itl_p99] = self.itl.quantiles(draw, [0.5, 0.99]);
        let [foreground_p50, foreground_p95] = self.ttft_foreground.quantiles(draw, [0.5, 0.95]);
        let goodput = self.goodput_share(draw);
        [foreground_p50, foreground_p95, short_p95, overall_p50, overall_p95, long_p95, itl_p50, itl_p99, goodput]
    }

    /// The values of `RUN_METRICS`, repetition by repetition.
    pub fn runs(&self) -> [Vec<f64>; RUN_METRICS.len()] {
        let Repetitions { span_s, done } = &self.repetitions;
        let throughput = done.iter().zip(span_s).map(|(done, span_s)| f64::from(*done) / span_s);
        [throughput.collect(), span_s.iter().map(|span_s| span_s * 1e3).collect()]
    }

    /// The values of `RUN_METRICS` over all repetitions, as an arm's summary gives them.
    pub fn all_runs(&self) -> [Option<f64>; RUN_METRICS.len()] {
        [self.repetitions.throughput_rps(), self.repetitions.completion_ms()]
    }

    /// Whether there is enough to tell the arm's `REQUEST_METRICS` by: more than one repetition, because nothing else shows how much
    /// repetitions differ; and at least one value beyond the quantile, or it is but the largest value that happened to come.
    pub fn enough(&self) -> [bool; REQUEST_METRICS.len()] {
        let beyond = |sorted: &Sorted, q: f64| sorted.len() as f64 * (1.0 - q) >= 1.0;
        let goodput = self.served.contains(&true);
        let enough = [
            beyond(&self.ttft_foreground, 0.5),
            beyond(&self.ttft_foreground, 0.95),
            beyond(&self.ttft_short, 0.95),
            beyond(&self.ttft, 0.5),
            beyond(&self.ttft, 0.95),
            beyond(&self.ttft_long, 0.95),
            beyond(&self.itl, 0.5),
            beyond(&self.itl, 0.99),
            goodput,
        ];
        enough.map(|enough| enough && self.repetitions.span_s.len() >= REPETITIONS_MIN)
    }

    /// Whether the requests came in waves.
    pub fn in_waves(&self) -> bool {
        self.ttft_foreground.len() > 0
    }

    pub fn failed(&self) -> bool {
        self.failed
    }

    fn goodput_share(&self, draw: &Draw) -> Option<f64> {
        let (mut served, mut good) = (0u64, 0u64);
        for (slot, weight) in draw.slots.iter().enumerate() {
            served += u64::from(*weight) * u64::from(self.served[slot]);
            good += u64::from(*weight) * u64::from(self.good[slot]);
        }
        (served > 0).then(|| good as f64 / served as f64)
    }
}
