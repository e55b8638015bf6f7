//! The metrics that arms are compared by, of all that there are.

use dualpool_report::metric::{self, Metric};

/// In the order in which they are reported.
const COMPARED: [Metric; 13] = [
    metric::FOREGROUND_TTFT_P50,
    metric::FOREGROUND_TTFT_P95,
    metric::SHORT_TTFT_P95,
    metric::TTFT_P50,
    metric::TTFT_P95,
    metric::LONG_TTFT_P50,
    metric::LONG_TTFT_P95,
    metric::ITL_P50,
    metric::ITL_P95,
    metric::ITL_P99,
    metric::GOODPUT,
    metric::THROUGHPUT,
    metric::COMPLETION,
];

pub(super) fn compared() -> impl Iterator<Item = &'static Metric> {
    const ALL: &[Metric] = &COMPARED;
    ALL.iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_report::metric::{Better, Taken};

    #[test]
    fn each_can_be_taken_of_one_repetition_and_is_better_one_way() {
        assert!(compared().all(|metric| !matches!(metric.taken, Taken::Records(_)) && metric.better != Better::Neither));
    }
}
