//! The metrics that arms are compared by.

/// A metric: its path in an arm's summary, and which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub lower_is_better: bool,
    /// Whether a failed request makes it worse. Others look better for it: what failed took no more time.
    pub counts_failures: bool,
    /// Whether it is only of workloads that come in waves.
    pub of_waves: bool,
}

const fn lower(name: &'static str) -> Metric {
    Metric { name, lower_is_better: true, counts_failures: false, of_waves: false }
}

const fn higher(name: &'static str) -> Metric {
    Metric { name, lower_is_better: false, counts_failures: true, of_waves: false }
}

const fn of_waves(name: &'static str) -> Metric {
    Metric { of_waves: true, ..lower(name) }
}

/// What requests experience: many values per run. In the order of `Observed::requests`.
pub const REQUEST_METRICS: [Metric; 9] = [
    of_waves("ttft_ms.foreground.p50"),
    of_waves("ttft_ms.foreground.p95"),
    lower("ttft_ms.short.p95"),
    lower("ttft_ms.overall.p50"),
    lower("ttft_ms.overall.p95"),
    lower("ttft_ms.long.p95"),
    lower("itl_ms.p50"),
    lower("itl_ms.p99"),
    higher("goodput_share"),
];

/// What belongs to a run as a whole: one value per repetition. In the order of `Observed::runs`.
pub const RUN_METRICS: [Metric; 2] = [higher("throughput_rps"), lower("completion_ms")];
