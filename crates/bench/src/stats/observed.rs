//! One arm's records, laid out so that its metrics under a draw cost one walk along each of its sorted samples.

use dualpool_report::measure::{Repetitions, is_done, within_objectives};
use dualpool_report::metric::{Series, Taken};
use dualpool_types::records::RequestRecord;

use super::bootstrap::{Draw, Sorted};
use super::metric::{REQUEST_METRICS, RUN_METRICS};

/// With fewer repetitions nothing is said about requests.
const REPETITIONS_MIN: usize = 2;

/// The values of `REQUEST_METRICS`; none where there was nothing to measure.
pub(super) type RequestFigures = [Option<f64>; REQUEST_METRICS.len()];

#[derive(Debug)]
pub(super) struct Observed {
    latencies: Vec<Latency>,
    /// By slot: whether there was a request, and whether it was within its objectives.
    served: Vec<bool>,
    good: Vec<bool>,
    repetitions: Repetitions,
    /// Whether any request came to no good end.
    failed: bool,
}

/// The values of a series, and which of its quantiles are which of the `REQUEST_METRICS`.
#[derive(Debug)]
struct Latency {
    series: Series,
    sorted: Sorted,
    /// In rising order, and the place of each among the metrics.
    shares: Vec<f64>,
    places: Vec<usize>,
}

impl Latency {
    fn new(series: Series, values: Vec<(f64, u32)>, slots: usize) -> Latency {
        let share = |(place, taken)| match taken {
            Taken::Quantile(of, share) if of == series => Some((share, place)),
            _ => None,
        };
        let mut asked: Vec<(f64, usize)> =
            REQUEST_METRICS.map(|metric| metric.taken).into_iter().enumerate().filter_map(share).collect();
        asked.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (shares, places) = asked.into_iter().unzip();
        Latency { series, sorted: Sorted::new(values, slots), shares, places }
    }
}

/// The series that `REQUEST_METRICS` are quantiles of, each once.
fn all_series() -> Vec<Series> {
    let mut all = Vec::new();
    for metric in REQUEST_METRICS {
        if let Taken::Quantile(series, _) = metric.taken
            && !all.contains(&series)
        {
            all.push(series);
        }
    }
    all
}

impl Observed {
    /// `repetitions[r]` are the arm's requests in the r-th repetition; a request's slot is `first_slot[r]` + its index.
    pub(super) fn new(repetitions: &[Vec<&RequestRecord>], first_slot: &[u32], slots: usize) -> Observed {
        let placed =
            || repetitions.iter().zip(first_slot).flat_map(|(requests, first)| requests.iter().map(move |r| (*r, first + r.index)));
        let latency = |series: Series| {
            let values = placed().flat_map(|(r, slot)| series.of(r).map(move |value| (value, slot)));
            Latency::new(series, values.collect(), slots)
        };
        let (mut served, mut good) = (vec![false; slots], vec![false; slots]);
        for (request, slot) in placed() {
            served[slot as usize] = true;
            good[slot as usize] = within_objectives(request);
        }
        Observed {
            latencies: all_series().into_iter().map(latency).collect(),
            served,
            good,
            repetitions: Repetitions::of(placed().map(|(r, _)| r)),
            failed: placed().any(|(r, _)| !is_done(r)),
        }
    }

    pub(super) fn requests(&self, draw: &Draw) -> RequestFigures {
        let goodput = self.goodput_share(draw);
        let mut figures = REQUEST_METRICS.map(|metric| if matches!(metric.taken, Taken::Goodput) { goodput } else { None });
        for Latency { sorted, shares, places, .. } in &self.latencies {
            sorted.quantiles(draw, shares, |i, value| figures[places[i]] = Some(value));
        }
        figures
    }

    /// The values of `RUN_METRICS`, repetition by repetition.
    pub(super) fn runs(&self) -> [Vec<f64>; RUN_METRICS.len()] {
        let Repetitions { span_s, done } = &self.repetitions;
        RUN_METRICS.map(|metric| match metric.taken {
            Taken::Whole { one, .. } => done.iter().zip(span_s).map(|(done, span_s)| one(f64::from(*done), *span_s)).collect(),
            _ => Vec::new(),
        })
    }

    /// The values of `RUN_METRICS` over all repetitions, as an arm's summary gives them.
    pub(super) fn all_runs(&self) -> [Option<f64>; RUN_METRICS.len()] {
        RUN_METRICS.map(|metric| match metric.taken {
            Taken::Whole { all, .. } => all(&self.repetitions),
            _ => None,
        })
    }

    /// Whether there is enough to tell the arm's `REQUEST_METRICS` by: more than one repetition, because nothing else shows how much
    /// repetitions differ; and at least one value beyond the quantile, or it is but the largest value that happened to come.
    pub(super) fn enough(&self) -> [bool; REQUEST_METRICS.len()] {
        let values =
            |series| self.latencies.iter().find(|latency| latency.series == series).map_or(0, |latency| latency.sorted.len());
        REQUEST_METRICS.map(|metric| {
            let enough = match metric.taken {
                Taken::Quantile(series, q) => values(series) as f64 * (1.0 - q) >= 1.0,
                _ => self.served.contains(&true),
            };
            enough && self.repetitions.span_s.len() >= REPETITIONS_MIN
        })
    }

    /// Whether the requests came in waves.
    pub(super) fn in_waves(&self) -> bool {
        self.latencies.iter().any(|latency| latency.series == Series::ForegroundTtft && latency.sorted.len() > 0)
    }

    pub(super) fn failed(&self) -> bool {
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
