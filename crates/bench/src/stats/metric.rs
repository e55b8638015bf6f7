//! The metrics that arms are compared by, of all that there are.

use dualpool_report::metric::{self, Metric};

/// What requests experience: many values per run.
pub const REQUEST_METRICS: [Metric; 9] = [
    metric::FOREGROUND_TTFT_P50,
    metric::FOREGROUND_TTFT_P95,
    metric::SHORT_TTFT_P95,
    metric::TTFT_P50,
    metric::TTFT_P95,
    metric::LONG_TTFT_P95,
    metric::ITL_P50,
    metric::ITL_P99,
    metric::GOODPUT,
];

/// What belongs to a run as a whole: one value per repetition.
pub const RUN_METRICS: [Metric; 2] = [metric::THROUGHPUT, metric::COMPLETION];

/// All of them, in the order in which they are reported.
pub(super) fn compared() -> impl Iterator<Item = &'static Metric> {
    REQUEST_METRICS.iter().chain(&RUN_METRICS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_report::metric::{Better, Taken};

    #[test]
    fn each_is_of_the_kind_that_its_list_is_of_and_better_one_way() {
        assert!(REQUEST_METRICS.iter().all(|metric| matches!(metric.taken, Taken::Quantile(..) | Taken::Goodput)));
        assert!(RUN_METRICS.iter().all(|metric| matches!(metric.taken, Taken::Whole { .. })));
        assert!(compared().all(|metric| metric.better != Better::Neither));
    }
}
