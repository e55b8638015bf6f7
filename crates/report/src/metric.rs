//! The metrics: what can be said of an arm in one figure. One table says of each what it is called, which way is better, how it is taken from
//! records and where it stands in an arm's summary; the summary, the verdicts, the expectations, tables, plots and words go by it.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use dualpool_types::artifact::ArmSummary;
use dualpool_types::records::{EngineSample, RequestRecord};
use dualpool_types::{Class, EngineId, Role, Wave};

use crate::measure::{Repetitions, itls_ms, quantile, sorted, ttft_ms, within_objectives, within_objectives_by_tpot};
use crate::routing::{cached_share, queue_spread, same_engine_share};
use crate::words::{figure, ms, percent};

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its path in an arm's summary, such as `ttft_ms.short.p95`.
    pub key: &'static str,
    /// What it is of, without its quantile, such as `short TTFT`.
    pub name: &'static str,
    pub unit: Unit,
    pub better: Better,
    pub taken: Taken,
    /// The figure in an arm's summary; none where it was not measured.
    pub read: fn(&ArmSummary) -> Option<f64>,
}

/// Which way a metric is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
    /// More of it is neither good nor bad in itself.
    Neither,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Ms,
    /// A part of all, from 0 to 1; written in percent.
    Share,
    RequestsPerS,
    TokensPerS,
    /// Requests in queues.
    Depth,
}

impl Unit {
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Ms => "ms",
            Unit::Share => "%",
            Unit::RequestsPerS => "requests/s",
            Unit::TokensPerS => "tokens/s",
            Unit::Depth => "requests",
        }
    }

    /// Writes a figure as people read it, without the unit.
    pub const fn write(self) -> fn(f64) -> String {
        match self {
            Unit::Ms => ms,
            Unit::Share => percent,
            Unit::RequestsPerS | Unit::TokensPerS => figure,
            // A tenth of a request is as fine as a queue depth matters.
            Unit::Depth => |depth| format!("{depth:.1}"),
        }
    }
}

/// How a metric is taken from an arm's records.
#[derive(Clone, Copy, Debug)]
pub enum Taken {
    /// The nearest-rank quantile over the pooled values of the records.
    Quantile(Series, f64),
    /// The share of the requests of which this holds.
    Share(fn(&RequestRecord) -> bool),
    /// Of a repetition as a whole, by the requests done in it and the seconds it took, and of all repetitions together.
    Whole { one: fn(f64, f64) -> f64, all: fn(&Repetitions) -> Option<f64> },
    /// From all there is.
    Records(fn(&Records) -> Option<f64>),
}

/// Latencies of which a run has very many: one or several of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    Ttft,
    ShortTtft,
    LongTtft,
    /// Of requests whose first token came from an engine of that pool.
    PrefillPoolTtft,
    DecodePoolTtft,
    BackgroundTtft,
    ForegroundTtft,
    /// Every gap between two tokens.
    Itl,
    /// Of each request the longest gap.
    LongestItl,
}

impl Series {
    const COUNT: usize = Series::LongestItl as usize + 1;

    /// What this request adds, in ms.
    pub fn of(self, request: &RequestRecord) -> impl Iterator<Item = f64> {
        let ttft = if self.counts_ttft_of(request) { ttft_ms(request) } else { None };
        let gaps = (self == Series::Itl).then(|| itls_ms(request));
        let longest = if self == Series::LongestItl { itls_ms(request).reduce(f64::max) } else { None };
        ttft.into_iter().chain(gaps.into_iter().flatten()).chain(longest)
    }

    fn counts_ttft_of(self, request: &RequestRecord) -> bool {
        let first_from = |role| request.legs.iter().find(|leg| leg.first_token_us.is_some()).is_some_and(|leg| leg.role == role);
        match self {
            Series::Ttft => true,
            Series::ShortTtft => request.class == Class::Short,
            Series::LongTtft => request.class == Class::Long,
            Series::PrefillPoolTtft => first_from(Role::Prefill),
            Series::DecodePoolTtft => first_from(Role::Decode),
            Series::BackgroundTtft => request.wave == Some(Wave::Background),
            Series::ForegroundTtft => request.wave == Some(Wave::Foreground),
            Series::Itl | Series::LongestItl => false,
        }
    }
}

/// What one arm recorded, all repetitions together.
pub struct Records<'a> {
    pub requests: &'a [&'a RequestRecord],
    pub samples: &'a [&'a EngineSample],
    pub repetitions: Repetitions,
    /// By series, once it was asked for.
    sorted: [OnceCell<Vec<f64>>; Series::COUNT],
}

impl<'a> Records<'a> {
    pub fn new(requests: &'a [&'a RequestRecord], samples: &'a [&'a EngineSample]) -> Records<'a> {
        Records { requests, samples, repetitions: Repetitions::of(requests.iter().copied()), sorted: Default::default() }
    }

    /// How many requests there are of which this holds.
    fn counted(&self, holds: fn(&RequestRecord) -> bool) -> usize {
        self.requests.iter().filter(|request| holds(request)).count()
    }

    /// How many of them there were per second, as throughput is computed.
    fn per_s(&self, holds: fn(&RequestRecord) -> bool) -> Option<f64> {
        let total_s = self.repetitions.total_s();
        (total_s > 0.0).then(|| self.counted(holds) as f64 / total_s)
    }

    fn sorted(&self, series: Series) -> &[f64] {
        self.sorted[series as usize].get_or_init(|| sorted(self.requests.iter().flat_map(|r| series.of(r))))
    }
}

impl Metric {
    /// The metric with this key.
    pub fn find(key: &str) -> Option<&'static Metric> {
        const ALL: &[Metric] = &METRICS;
        ALL.iter().find(|metric| metric.key == key)
    }

    /// In words, such as `short TTFT p95`.
    pub fn label(&self) -> String {
        match self.taken {
            Taken::Quantile(_, q) => format!("{} p{:.0}", self.name, q * 100.0),
            _ => self.name.to_string(),
        }
    }

    /// The figure of these records; none where they have nothing to measure.
    pub fn of(&self, records: &Records) -> Option<f64> {
        match self.taken {
            Taken::Quantile(series, q) => quantile(records.sorted(series), q),
            Taken::Share(counts) => {
                let (good, all) = (records.counted(counts), records.requests.len());
                (all > 0).then(|| good as f64 / all as f64)
            }
            Taken::Whole { all, .. } => all(&records.repetitions),
            Taken::Records(take) => take(records),
        }
    }

    /// Whether a failed request makes it worse. Where less is better it does not: what failed took no more time.
    pub fn counts_failures(&self) -> bool {
        self.better == Better::Higher
    }

    /// Whether it is of a repetition as a whole: below saturation the workload decides it, not the arm.
    pub fn of_whole(&self) -> bool {
        matches!(self.taken, Taken::Whole { .. })
    }

    /// Whether it is only of workloads that come in waves.
    pub fn of_waves(&self) -> bool {
        matches!(self.taken, Taken::Quantile(Series::BackgroundTtft | Series::ForegroundTtft, _))
    }
}

/// A quantile of a latency: less of it is better.
const fn latency(
    key: &'static str,
    name: &'static str,
    (series, q): (Series, f64),
    read: fn(&ArmSummary) -> Option<f64>,
) -> Metric {
    Metric { key, name, unit: Unit::Ms, better: Better::Lower, taken: Taken::Quantile(series, q), read }
}

const fn depth(
    key: &'static str,
    name: &'static str,
    take: fn(&Records) -> Option<f64>,
    read: fn(&ArmSummary) -> Option<f64>,
) -> Metric {
    Metric { key, name, unit: Unit::Depth, better: Better::Neither, taken: Taken::Records(take), read }
}

pub const GOODPUT: Metric = Metric {
    key: "goodput_share",
    name: "share within objectives",
    unit: Unit::Share,
    better: Better::Higher,
    taken: Taken::Share(within_objectives),
    read: |a| a.goodput_share,
};
pub const TPOT_SHARE: Metric = Metric {
    key: "tpot_share",
    name: "share within objectives by TPOT",
    unit: Unit::Share,
    better: Better::Higher,
    taken: Taken::Share(within_objectives_by_tpot),
    read: |a| a.tpot_share,
};
pub const GOODPUT_RPS: Metric = Metric {
    key: "goodput_rps",
    name: "goodput",
    unit: Unit::RequestsPerS,
    better: Better::Higher,
    taken: Taken::Records(|r| r.per_s(within_objectives)),
    read: |a| a.goodput_rps,
};
pub const TPOT_GOODPUT_RPS: Metric = Metric {
    key: "tpot_goodput_rps",
    name: "goodput by TPOT",
    unit: Unit::RequestsPerS,
    better: Better::Higher,
    taken: Taken::Records(|r| r.per_s(within_objectives_by_tpot)),
    read: |a| a.tpot_goodput_rps,
};
pub const THROUGHPUT: Metric = Metric {
    key: "throughput_rps",
    name: "throughput",
    unit: Unit::RequestsPerS,
    better: Better::Higher,
    taken: Taken::Whole { one: |done, span_s| done / span_s, all: Repetitions::throughput_rps },
    read: |a| a.throughput_rps,
};
pub const COMPLETION: Metric = Metric {
    key: "completion_ms",
    name: "completion time",
    unit: Unit::Ms,
    better: Better::Lower,
    taken: Taken::Whole { one: |_, span_s| span_s * 1e3, all: Repetitions::completion_ms },
    read: |a| a.completion_ms,
};
pub const OUTPUT_RATE: Metric = Metric {
    key: "output_tokens_per_s",
    name: "output tokens/s",
    unit: Unit::TokensPerS,
    better: Better::Higher,
    taken: Taken::Records(output_rate),
    read: |a| a.output_tokens_per_s,
};

pub const TTFT_P50: Metric = latency("ttft_ms.overall.p50", "TTFT", (Series::Ttft, 0.5), |a| a.ttft_ms.overall.p50);
pub const TTFT_P95: Metric = latency("ttft_ms.overall.p95", "TTFT", (Series::Ttft, 0.95), |a| a.ttft_ms.overall.p95);
pub const SHORT_TTFT_P50: Metric = latency("ttft_ms.short.p50", "short TTFT", (Series::ShortTtft, 0.5), |a| a.ttft_ms.short.p50);
pub const SHORT_TTFT_P95: Metric = latency("ttft_ms.short.p95", "short TTFT", (Series::ShortTtft, 0.95), |a| a.ttft_ms.short.p95);
pub const LONG_TTFT_P50: Metric = latency("ttft_ms.long.p50", "long TTFT", (Series::LongTtft, 0.5), |a| a.ttft_ms.long.p50);
pub const LONG_TTFT_P95: Metric = latency("ttft_ms.long.p95", "long TTFT", (Series::LongTtft, 0.95), |a| a.ttft_ms.long.p95);
pub const PREFILL_POOL_TTFT_P50: Metric =
    latency("ttft_ms.prefill_pool.p50", "prefill pool TTFT", (Series::PrefillPoolTtft, 0.5), |a| a.ttft_ms.prefill_pool.p50);
pub const PREFILL_POOL_TTFT_P95: Metric =
    latency("ttft_ms.prefill_pool.p95", "prefill pool TTFT", (Series::PrefillPoolTtft, 0.95), |a| a.ttft_ms.prefill_pool.p95);
pub const DECODE_POOL_TTFT_P50: Metric =
    latency("ttft_ms.decode_pool.p50", "decode pool TTFT", (Series::DecodePoolTtft, 0.5), |a| a.ttft_ms.decode_pool.p50);
pub const DECODE_POOL_TTFT_P95: Metric =
    latency("ttft_ms.decode_pool.p95", "decode pool TTFT", (Series::DecodePoolTtft, 0.95), |a| a.ttft_ms.decode_pool.p95);
pub const BACKGROUND_TTFT_P50: Metric =
    latency("ttft_ms.background.p50", "background TTFT", (Series::BackgroundTtft, 0.5), |a| a.ttft_ms.background?.p50);
pub const BACKGROUND_TTFT_P95: Metric =
    latency("ttft_ms.background.p95", "background TTFT", (Series::BackgroundTtft, 0.95), |a| a.ttft_ms.background?.p95);
pub const FOREGROUND_TTFT_P50: Metric =
    latency("ttft_ms.foreground.p50", "foreground TTFT", (Series::ForegroundTtft, 0.5), |a| a.ttft_ms.foreground?.p50);
pub const FOREGROUND_TTFT_P95: Metric =
    latency("ttft_ms.foreground.p95", "foreground TTFT", (Series::ForegroundTtft, 0.95), |a| a.ttft_ms.foreground?.p95);
pub const ITL_P50: Metric = latency("itl_ms.p50", "ITL", (Series::Itl, 0.5), |a| a.itl_ms.p50);
pub const ITL_P95: Metric = latency("itl_ms.p95", "ITL", (Series::Itl, 0.95), |a| a.itl_ms.p95);
pub const ITL_P99: Metric = latency("itl_ms.p99", "ITL", (Series::Itl, 0.99), |a| a.itl_ms.p99);
pub const LONGEST_ITL_P99: Metric =
    latency("longest_itl_ms_p99", "longest ITL", (Series::LongestItl, 0.99), |a| a.longest_itl_ms_p99);

pub const PREFILL_DEPTH: Metric = depth(
    "queue_depth_mean.prefill",
    "mean prefill queue depth",
    |r| depth_of(r.samples, Role::Prefill),
    |a| a.queue_depth_mean.prefill,
);
pub const DECODE_DEPTH: Metric = depth(
    "queue_depth_mean.decode",
    "mean decode queue depth",
    |r| depth_of(r.samples, Role::Decode),
    |a| a.queue_depth_mean.decode,
);
pub const SHARED_DEPTH: Metric = depth(
    "queue_depth_mean.shared",
    "mean shared queue depth",
    |r| depth_of(r.samples, Role::Shared),
    |a| a.queue_depth_mean.shared,
);
pub const QUEUE_SPREAD: Metric =
    depth("routing.queue_spread_mean", "queue spread", |r| queue_spread(r.samples), |a| a.routing.as_ref()?.queue_spread_mean);
pub const CACHED_SHARE: Metric = Metric {
    key: "routing.cached_share",
    name: "cached share",
    unit: Unit::Share,
    better: Better::Higher,
    taken: Taken::Records(|r| cached_share(r.requests)),
    read: |a| a.routing.as_ref()?.cached_share,
};
pub const SAME_ENGINE_SHARE: Metric = Metric {
    key: "routing.same_engine_share",
    name: "same engine",
    unit: Unit::Share,
    better: Better::Neither,
    taken: Taken::Records(|r| same_engine_share(r.requests)),
    read: |a| a.routing.as_ref()?.same_engine_share,
};

/// All of them.
pub const METRICS: [Metric; 31] = [
    GOODPUT,
    TPOT_SHARE,
    GOODPUT_RPS,
    TPOT_GOODPUT_RPS,
    THROUGHPUT,
    COMPLETION,
    OUTPUT_RATE,
    TTFT_P50,
    TTFT_P95,
    SHORT_TTFT_P50,
    SHORT_TTFT_P95,
    LONG_TTFT_P50,
    LONG_TTFT_P95,
    PREFILL_POOL_TTFT_P50,
    PREFILL_POOL_TTFT_P95,
    DECODE_POOL_TTFT_P50,
    DECODE_POOL_TTFT_P95,
    BACKGROUND_TTFT_P50,
    BACKGROUND_TTFT_P95,
    FOREGROUND_TTFT_P50,
    FOREGROUND_TTFT_P95,
    ITL_P50,
    ITL_P95,
    ITL_P99,
    LONGEST_ITL_P99,
    PREFILL_DEPTH,
    DECODE_DEPTH,
    SHARED_DEPTH,
    QUEUE_SPREAD,
    CACHED_SHARE,
    SAME_ENGINE_SHARE,
];

fn output_rate(records: &Records) -> Option<f64> {
    let total_s = records.repetitions.total_s();
    let tokens: usize = records.requests.iter().map(|r| r.token_us.len()).sum();
    (total_s > 0.0).then(|| tokens as f64 / total_s)
}

/// The depth of a role is the sum over its engines of each one's mean depth over all its samples.
fn depth_of(samples: &[&EngineSample], role: Role) -> Option<f64> {
    let mut engines: BTreeMap<EngineId, (f64, f64)> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.role == role) {
        let (sum, count) = engines.entry(sample.engine).or_default();
        *sum += f64::from(sample.waiting + sample.running);
        *count += 1.0;
    }
    (!engines.is_empty()).then(|| engines.values().map(|(sum, count)| sum / count).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{figures, fixture, routing};

    #[test]
    fn a_key_is_the_path_in_a_summary_and_stands_for_what_the_records_say() {
        let artifacts = fixture::small();
        let environment = &artifacts.run.environment;
        for arm in &artifacts.run.arms {
            let requests: Vec<&RequestRecord> = artifacts.requests.iter().filter(|r| r.arm == arm.name).collect();
            let samples: Vec<&EngineSample> = artifacts.samples.iter().filter(|s| s.arm == arm.name).collect();
            let routing = Some(routing(&requests, &samples, environment));
            let summary = ArmSummary { routing, ..figures(&arm.name, false, &requests, &samples, environment) };
            let json = serde_json::to_value(&summary).unwrap();
            let records = Records::new(&requests, &samples);
            for metric in METRICS {
                let written = metric.key.split('.').try_fold(&json, |value, key| value.get(key)).and_then(|value| value.as_f64());
                assert_eq!((metric.read)(&summary), written, "{} of {}", metric.key, arm.name);
                assert_eq!(metric.of(&records), written, "{} of {}", metric.key, arm.name);
            }
        }
    }

    #[test]
    fn no_two_metrics_have_one_key_and_each_is_found_by_its_own() {
        for (i, metric) in METRICS.iter().enumerate() {
            assert!(METRICS[..i].iter().all(|other| other.key != metric.key && other.label() != metric.label()), "{}", metric.key);
            assert_eq!(Metric::find(metric.key).map(|found| found.name), Some(metric.name));
        }
        assert!(Metric::find("ttft_ms").is_none());
    }
}
