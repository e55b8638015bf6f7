//! The metrics that arms are compared by.

/// A metric: its path in an arm's summary, and which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub lower_is_better: bool,
    /// Whether it describes a whole run (one value per repetition) instead of its requests.
    pub per_run: bool,
}

const fn time(name: &'static str) -> Metric {
    Metric { name, lower_is_better: true, per_run: false }
}

/// In the order in which `Observed::figures` gives their values.
pub const METRICS: [Metric; 9] = [
    time("ttft_ms.short.p95"),
    time("ttft_ms.overall.p50"),
    time("ttft_ms.overall.p95"),
    time("ttft_ms.long.p95"),
    time("itl_ms.p50"),
    time("itl_ms.p99"),
    Metric { name: "throughput_rps", lower_is_better: false, per_run: true },
    Metric { name: "goodput_share", lower_is_better: false, per_run: false },
    Metric { name: "completion_ms", lower_is_better: true, per_run: true },
];
