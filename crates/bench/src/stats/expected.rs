//! A run held against what was accepted of an earlier one.

use dualpool_report::metric::{Better, Metric};
use dualpool_types::artifact::{Behind, Comparison, Expected, ExpectedRatio, Held};

/// Where this run's ratios are worse than the accepted ones.
pub(super) fn held(expected: &Expected, comparisons: &[Comparison]) -> Held {
    let now = |e: &ExpectedRatio| {
        let same = |c: &&Comparison| (&c.baseline, &c.candidate, &c.metric) == (&e.baseline, &e.candidate, &e.metric);
        comparisons.iter().find(same).filter(|c| c.ratio.is_some())
    };
    let both: Vec<(&ExpectedRatio, &Comparison)> = expected.ratios.iter().filter_map(|e| Some((e, now(e)?))).collect();
    Held {
        file: expected.file.clone(),
        run: expected.run.clone(),
        compared: both.len() as u32,
        behind: both.into_iter().filter_map(|(e, c)| behind(e, c)).collect(),
    }
}

/// A ratio is behind when it is beyond the accepted interval on the worse side, and all of its own interval is worse than the accepted
/// ratio: two runs of the same program differ, and one of them alone does not know by how much.
fn behind(e: &ExpectedRatio, c: &Comparison) -> Option<Behind> {
    let (ratio, low, high) = (c.ratio?, c.ci_low?, c.ci_high?);
    let is_behind = match Metric::find(&e.metric)?.better {
        Better::Higher => ratio < e.ci_low && high < e.ratio,
        Better::Lower => ratio > e.ci_high && low > e.ratio,
        Better::Neither => false,
    };
    is_behind.then(|| Behind {
        baseline: e.baseline.clone(),
        candidate: e.candidate.clone(),
        metric: e.metric.clone(),
        ratio,
        accepted: e.ratio,
        ci_low: e.ci_low,
        ci_high: e.ci_high,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::artifact::Verdict;

    fn accepted(metric: &str) -> Expected {
        let (baseline, candidate) = ("least_load".into(), "dynamic_router".into());
        let ratio = ExpectedRatio { baseline, candidate, metric: metric.into(), ratio: 0.8, ci_low: 0.7, ci_high: 0.9 };
        Expected { file: "f.json".into(), run: "earlier".into(), ratios: vec![ratio] }
    }

    fn now(metric: &str, ratio: f64, ci_low: f64, ci_high: f64) -> Comparison {
        Comparison {
            baseline: "least_load".into(),
            candidate: "dynamic_router".into(),
            metric: metric.into(),
            ratio: Some(ratio),
            ci_low: Some(ci_low),
            ci_high: Some(ci_high),
            planned: false,
            repetitions: 6,
            difference: None,
            p_value: None,
            visible: None,
            verdict: Verdict::Undecided,
        }
    }

    #[test]
    fn behind_is_beyond_the_interval_on_the_worse_side() {
        let behind = |metric: &str, ratio, low, high| held(&accepted(metric), &[now(metric, ratio, low, high)]).behind.len();
        // A lower TTFT is better, a higher throughput is.
        assert_eq!(behind("ttft_ms.overall.p50", 0.95, 0.85, 1.05), 1);
        assert_eq!(behind("ttft_ms.overall.p50", 0.6, 0.5, 0.65), 0);
        assert_eq!(behind("throughput_rps", 0.6, 0.5, 0.65), 1);
        assert_eq!(behind("throughput_rps", 0.95, 0.85, 1.05), 0);
        // Within the accepted interval, and so uncertain that the accepted ratio may hold still.
        assert_eq!(behind("ttft_ms.overall.p50", 0.88, 0.85, 0.95), 0);
        assert_eq!(behind("ttft_ms.overall.p50", 0.95, 0.75, 1.2), 0);
    }

    #[test]
    fn only_what_both_runs_measured_is_compared() {
        let unmeasured = Comparison { ratio: None, ..now("itl_ms.p50", 1.0, 1.0, 1.0) };
        assert_eq!(held(&accepted("itl_ms.p50"), &[unmeasured]).compared, 0);
        assert_eq!(held(&accepted("itl_ms.p50"), &[now("itl_ms.p99", 1.0, 1.0, 1.0)]).compared, 0);
        let held = held(&accepted("itl_ms.p50"), &[now("itl_ms.p50", 1.0, 0.99, 1.01)]);
        assert_eq!((held.compared, held.behind.len()), (1, 1));
        assert_eq!((held.behind[0].ratio, held.behind[0].accepted), (1.0, 0.8));
    }
}
