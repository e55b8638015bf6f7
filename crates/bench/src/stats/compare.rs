//! Candidates against baselines: one paired value per repetition, its interval, and what may be said of it.
//!
//! A few comparisons are planned before the run. They are looked at while it goes on, and may be decided at any look; Holm's procedure keeps the
//! share of runs in which any of them is called different wrongly below `looks::ERROR`. All others explore: they are judged once, at the end,
//! by Benjamini and Hochberg's procedure. docs/measuring.md says what each rule is for.

use dualpool_report::measure::is_done;
use dualpool_report::metric::{self, Better, Metric, Records, Unit};
use dualpool_report::{Beyond, MARGIN_SHARE, REPETITIONS_MIN};
use dualpool_types::arm::{baselines, controlled, strongest_baseline, tried_candidates};
use dualpool_types::artifact::{Comparison, Verdict};
use dualpool_types::records::RequestRecord;

use super::estimate::Estimate;
use super::looks::{ERROR, discovered, equivalent, seen_at};
use super::metric::compared;

/// A difference of latencies within this share does not matter.
const MARGIN_RATIO: f64 = 0.10;

const WITHIN: &Metric = &metric::GOODPUT;

/// What the planned comparisons are about.
pub(super) const PLANNED: [Metric; 3] = [metric::GOODPUT, metric::SHORT_TTFT_P95, metric::ITL_P99];

/// One arm's requests, repetition by repetition: the same requests in every arm.
pub(super) struct Arm<'a> {
    pub(super) name: &'a str,
    pub(super) repetitions: Vec<Vec<&'a RequestRecord>>,
}

/// Compares every candidate with every baseline, and the control with its arm. `looks`: after how many repetitions the planned comparisons were
/// looked at. `saturated`: as much was offered as the engines take, so that throughput is theirs and not the workload's.
pub(super) fn comparisons(arms: &[Arm<'_>], looks: &[u32], saturated: bool) -> Vec<Comparison> {
    let in_waves = arms.iter().any(|arm| arm.values(&metric::FOREGROUND_TTFT_P50).iter().any(Option::is_some));
    let metrics: Vec<&'static Metric> =
        compared().filter(|metric| in_waves || !metric.of_waves()).filter(|metric| saturated || !metric.of_whole()).collect();
    let planned_candidates = planned(arms);
    let mut tests: Vec<Test> = Vec::new();
    for (baseline, candidate) in pairs(arms) {
        let planned = planned_candidates.contains(&(baseline, candidate));
        for &metric in &metrics {
            let planned = planned && PLANNED.iter().any(|planned| planned.key == metric.key);
            tests.push(Test::new(metric, &arms[baseline], &arms[candidate], planned));
        }
    }
    // What is recommended goes by the shares within objectives, so these are compared between any two arms.
    let rest = others(arms).into_iter();
    tests.extend(rest.map(|(first, second)| Test::new(WITHIN, &arms[first], &arms[second], false)));
    decide_planned(&mut tests, looks);
    decide_others(&mut tests);
    tests.into_iter().map(Test::comparison).collect()
}

/// Whether all planned comparisons are decided, as far as they ever can be.
pub(super) fn all_decided(comparisons: &[Comparison]) -> bool {
    let mut planned = comparisons.iter().filter(|c| c.planned).peekable();
    planned.peek().is_some() && planned.all(|c| matches!(c.verdict, Verdict::Better | Verdict::Worse | Verdict::Equivalent))
}

/// Baseline and candidate of each comparison, as places in `arms`: every arm that is no baseline against every one that is; and the
/// control against its arm.
fn pairs(arms: &[Arm<'_>]) -> Vec<(usize, usize)> {
    let place = |name: &str| arms.iter().position(|a| a.name == name);
    let known: Vec<&str> = baselines().collect();
    let baselines: Vec<usize> = known.iter().filter_map(|name| place(name)).collect();
    let mut pairs = Vec::new();
    for (i, arm) in arms.iter().enumerate() {
        if let Some(repeated) = controlled(arm.name) {
            pairs.extend(place(repeated).map(|repeated| (repeated, i)));
        } else if !known.contains(&arm.name) {
            pairs.extend(baselines.iter().map(|&baseline| (baseline, i)));
        }
    }
    pairs
}

/// All other pairs of arms, controls aside, the one that runs first as the baseline.
fn others(arms: &[Arm<'_>]) -> Vec<(usize, usize)> {
    let known = pairs(arms);
    let is_new = |&(first, second): &(usize, usize)| {
        let apart = [first, second].iter().all(|&arm| controlled(arms[arm].name).is_none());
        apart && !known.contains(&(first, second)) && !known.contains(&(second, first))
    };
    (0..arms.len()).flat_map(|first| (first + 1..arms.len()).map(move |second| (first, second))).filter(is_new).collect()
}

/// The pairs that a run is made for: what users would serve with, against the strongest baseline; every candidate where none of these runs.
fn planned(arms: &[Arm<'_>]) -> Vec<(usize, usize)> {
    let Some(baseline) = strongest_baseline(arms.iter().map(|arm| arm.name)) else { return Vec::new() };
    let against: Vec<(usize, usize)> =
        pairs(arms).into_iter().filter(|&(b, candidate)| b == baseline && controlled(arms[candidate].name).is_none()).collect();
    let tried: Vec<(usize, usize)> =
        against.iter().copied().filter(|&(_, candidate)| tried_candidates().any(|name| name == arms[candidate].name)).collect();
    if tried.is_empty() { against } else { tried }
}

impl Arm<'_> {
    /// The metric, repetition by repetition.
    pub(super) fn values(&self, metric: &Metric) -> Vec<Option<f64>> {
        self.repetitions.iter().map(|requests| metric.of(&Records::new(requests, &[]))).collect()
    }

    fn failed(&self) -> bool {
        self.repetitions.iter().flatten().any(|request| !is_done(request))
    }

    /// Whether enough lies beyond the quantile, in all repetitions together, to tell it by.
    fn reaches(&self, metric: &Metric) -> bool {
        Beyond::of(metric, &self.repetitions).is_none_or(|beyond| beyond.suffices())
    }
}

/// One comparison while it is decided.
struct Test<'a> {
    metric: &'static Metric,
    baseline: &'a str,
    candidate: &'a str,
    planned: bool,
    /// Logarithms of ratios, or differences of shares; none where a side has no value.
    values: Vec<Option<f64>>,
    /// What keeps it from being decided at all.
    barred: Option<Verdict>,
    decided: Option<Verdict>,
}

impl<'a> Test<'a> {
    fn new(metric: &'static Metric, baseline: &Arm<'a>, candidate: &Arm<'a>, planned: bool) -> Test<'a> {
        let sides = [baseline, candidate];
        let values: Vec<Option<f64>> = baseline
            .values(metric)
            .into_iter()
            .zip(candidate.values(metric))
            .map(|(baseline, candidate)| apart(metric, baseline?, candidate?))
            .collect();
        let failed = !metric.counts_failures() && sides.iter().any(|arm| arm.failed());
        let barred = if failed || values.iter().all(Option::is_none) {
            Some(Verdict::NotMeasured)
        } else if !sides.iter().all(|arm| arm.reaches(metric)) {
            Some(Verdict::TooFew)
        } else {
            None
        };
        Test { metric, baseline: baseline.name, candidate: candidate.name, planned, values, barred, decided: None }
    }

    /// From the first so many repetitions.
    fn estimate(&self, repetitions: usize) -> Option<Estimate> {
        let values: Vec<f64> = self.values.iter().take(repetitions).flatten().copied().collect();
        Estimate::of(&values).filter(|_| self.barred != Some(Verdict::NotMeasured))
    }

    /// The estimate from which it may be decided, after so many repetitions.
    fn decisive(&self, repetitions: usize) -> Option<Estimate> {
        let measured = self.values.iter().take(repetitions).flatten().count();
        self.estimate(repetitions).filter(|_| self.barred.is_none() && measured >= REPETITIONS_MIN as usize)
    }

    fn is_share(&self) -> bool {
        self.metric.unit == Unit::Share
    }

    fn margin(&self) -> f64 {
        if self.is_share() { MARGIN_SHARE } else { (1.0 + MARGIN_RATIO).ln() }
    }

    fn decide(&mut self, estimate: &Estimate, is_different: bool) {
        let worse = (estimate.mean > 0.0) == (self.metric.better == Better::Lower);
        self.decided = match (is_different, worse) {
            (true, true) => Some(Verdict::Worse),
            (true, false) => Some(Verdict::Better),
            (false, _) => equivalent(estimate, self.margin()).then_some(Verdict::Equivalent),
        };
    }

    fn comparison(self) -> Comparison {
        let estimate = self.estimate(self.values.len());
        let written = |value: f64| if self.is_share() { value } else { value.exp() };
        let interval = estimate.map(|estimate| estimate.interval(0.95));
        let mean = estimate.map(|estimate| written(estimate.mean));
        let measured = self.values.iter().flatten().count();
        let few = (measured < REPETITIONS_MIN as usize).then_some(Verdict::TooFew);
        Comparison {
            baseline: self.baseline.to_string(),
            candidate: self.candidate.to_string(),
            metric: self.metric.key.to_string(),
            planned: self.planned,
            repetitions: measured as u32,
            ratio: mean.filter(|_| !self.is_share()),
            difference: mean.filter(|_| self.is_share()),
            ci_low: interval.map(|(low, _)| written(low)),
            ci_high: interval.map(|(_, high)| written(high)),
            p_value: estimate.map(|estimate| estimate.p_value()),
            visible: estimate.map(|estimate| written(estimate.visible(ERROR))),
            verdict: self.barred.or(few).or(self.decided).unwrap_or(Verdict::Undecided),
        }
    }
}

/// How far the candidate is from the baseline: the logarithm of the ratio, or points of a share. None of latencies of 0.
pub(super) fn apart(metric: &Metric, baseline: f64, candidate: f64) -> Option<f64> {
    match metric.unit {
        Unit::Share => Some(candidate - baseline),
        _ if candidate == baseline => Some(0.0),
        _ => Some((candidate / baseline).ln()).filter(|apart| apart.is_finite()),
    }
}

/// Goes through the looks in their order; what one has decided stays.
fn decide_planned(tests: &mut [Test<'_>], looks: &[u32]) {
    let mut tests: Vec<&mut Test<'_>> = tests.iter_mut().filter(|test| test.planned).collect();
    let p_values = |look: u32| {
        let estimates = tests.iter().map(|test| test.decisive(look as usize));
        estimates.map(|estimate| estimate.map_or(1.0, |estimate| estimate.p_value())).collect()
    };
    let seen: Vec<(u32, Vec<bool>)> = seen_at(looks.iter().copied(), p_values).collect();
    for (look, different) in seen {
        for (test, is_different) in tests.iter_mut().zip(different).filter(|(test, _)| test.decided.is_none()) {
            if let Some(estimate) = test.decisive(look as usize) {
                test.decide(&estimate, is_different);
            }
        }
    }
}

fn decide_others(tests: &mut [Test<'_>]) {
    let mut tests: Vec<(&mut Test<'_>, Estimate)> = tests
        .iter_mut()
        .filter(|test| !test.planned)
        .filter_map(|test| {
            let estimate = test.decisive(test.values.len())?;
            Some((test, estimate))
        })
        .collect();
    let p_values: Vec<f64> = tests.iter().map(|(_, estimate)| estimate.p_value()).collect();
    for ((test, estimate), is_different) in tests.iter_mut().zip(discovered(&p_values, ERROR)) {
        test.decide(estimate, is_different);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::looks::looks_within;
    use crate::stats::synthetic::{self, by_repetition};
    use dualpool_types::records::Outcome;
    use dualpool_types::{Phase, RequestError};

    const REPETITIONS: u32 = 12;
    const REQUESTS: u32 = 40;

    fn compare(arms: &[(&str, Vec<RequestRecord>)]) -> Vec<Comparison> {
        let arms: Vec<Arm<'_>> = arms.iter().map(|(name, requests)| Arm { name, repetitions: by_repetition(requests) }).collect();
        comparisons(&arms, &looks_within(arms[0].repetitions.len() as u32).collect::<Vec<_>>(), true)
    }

    fn arm(name: &str, stretch: f64) -> (&str, Vec<RequestRecord>) {
        (name, synthetic::arm(name, REPETITIONS, REQUESTS, stretch))
    }

    fn noisy(name: &str, stretch: f64, seed: u64) -> (&str, Vec<RequestRecord>) {
        (name, synthetic::noisy(name, REPETITIONS, REQUESTS, stretch, seed))
    }

    fn of<'a>(comparisons: &'a [Comparison], candidate: &str, metric: &str) -> &'a Comparison {
        comparisons.iter().find(|c| c.candidate == candidate && c.metric == metric).expect("this pair is compared")
    }

    #[test]
    fn identical_data_are_equivalent() {
        let all = compare(&[arm("shared_tuned", 1.0), arm("dual_pool", 1.0), arm("shared_tuned_control", 1.0)]);
        assert_eq!(all.len(), 2 * compared().filter(|metric| !metric.of_waves()).count());
        for c in &all {
            let even = if c.difference.is_some() { 0.0 } else { 1.0 };
            assert_eq!((c.ratio.or(c.difference), c.ci_low, c.ci_high), (Some(even), Some(even), Some(even)), "{}", c.metric);
            assert!(matches!(c.verdict, Verdict::Equivalent | Verdict::TooFew), "{c:?}");
        }
        assert!(all_decided(&all));
    }

    #[test]
    fn a_clear_shift_is_found_in_both_directions() {
        for seed in 0..5 {
            let all = compare(&[noisy("shared_tuned", 1.0, seed), noisy("dual_pool", 0.5, seed + 100)]);
            for metric in ["ttft_ms.short.p95", "ttft_ms.overall.p50", "itl_ms.p50", "itl_ms.p99"] {
                let c = of(&all, "dual_pool", metric);
                assert_eq!(c.verdict, Verdict::Better, "seed {seed}: {c:?}");
                assert!((0.35..0.65).contains(&c.ratio.unwrap()), "seed {seed}: {c:?}");
                assert!(c.ci_low < c.ratio && c.ratio < c.ci_high && c.visible > Some(1.0), "{c:?}");
            }
            let slower = compare(&[noisy("shared_tuned", 1.0, seed), noisy("auto", 2.0, seed + 100)]);
            assert_eq!(of(&slower, "auto", "itl_ms.p50").verdict, Verdict::Worse, "seed {seed}");
        }
    }

    #[test]
    fn shares_are_compared_in_points() {
        let all = compare(&[arm("shared_tuned", 100.0), arm("dual_pool", 0.1)]);
        let c = of(&all, "dual_pool", "goodput_share");
        assert_eq!((c.ratio, c.difference, c.verdict), (None, Some(1.0), Verdict::Better));
        let back = compare(&[arm("shared_tuned", 0.1), arm("dual_pool", 100.0)]);
        assert_eq!(of(&back, "dual_pool", "goodput_share").verdict, Verdict::Worse);
    }

    #[test]
    fn few_repetitions_decide_nothing_and_one_has_no_interval() {
        let few = |name, repetitions, stretch| (name, synthetic::arm(name, repetitions, REQUESTS, stretch));
        let all = compare(&[few("shared_tuned", 5, 1.0), few("dual_pool", 5, 0.2)]);
        assert!(all.iter().all(|c| c.verdict == Verdict::TooFew), "{all:?}");
        assert!(of(&all, "dual_pool", "itl_ms.p50").ci_low.is_some());
        let all = compare(&[few("shared_tuned", 1, 1.0), few("dual_pool", 1, 0.2)]);
        assert!(all.iter().all(|c| c.verdict == Verdict::TooFew && c.ratio.is_none()), "{all:?}");
        assert!(!all_decided(&all));
    }

    #[test]
    fn a_quantile_with_little_beyond_it_is_not_judged() {
        // 12 repetitions of 10 requests: 24 long ones, one or two of them beyond p95.
        let few = |name, stretch| (name, synthetic::noisy(name, REPETITIONS, 10, stretch, 3));
        let all = compare(&[few("shared_tuned", 1.0), few("dual_pool", 0.3)]);
        let verdict = |metric| of(&all, "dual_pool", metric).verdict;
        assert_eq!((verdict("ttft_ms.long.p95"), verdict("ttft_ms.long.p50")), (Verdict::TooFew, Verdict::Better));
    }

    #[test]
    fn an_arm_that_failed_requests_is_compared_only_by_what_counts_them() {
        let mut failing = arm("dual_pool", 0.5);
        failing.1[7].outcome = Outcome::Failed { error: RequestError::Cancelled { phase: Phase::Decode } };
        let all = compare(&[arm("shared_tuned", 1.0), failing]);
        for metric in compared().filter(|metric| !metric.of_waves()) {
            let measured = of(&all, "dual_pool", metric.key).verdict != Verdict::NotMeasured;
            assert_eq!(measured, ["goodput_share", "throughput_rps"].contains(&metric.key), "{}", metric.key);
        }
    }

    #[test]
    fn below_saturation_nothing_is_said_of_throughput() {
        let (baseline, candidate) = (arm("shared_tuned", 1.0), arm("dual_pool", 1.0));
        let arms = [&baseline, &candidate].map(|(name, requests)| Arm { name, repetitions: by_repetition(requests) });
        let said = comparisons(&arms, &[], false);
        assert!(said.iter().all(|c| c.metric != "throughput_rps" && c.metric != "completion_ms"), "{said:?}");
    }

    #[test]
    fn candidates_meet_all_baselines_and_only_some_of_that_is_planned() {
        let names = ["shared_round_robin", "shared_tuned", "dedicated", "dual_pool", "shared_tuned_control"];
        let all = compare(&names.map(|n| arm(n, 1.0)));
        let mut pairs: Vec<(&str, &str)> = all.iter().map(|c| (c.baseline.as_str(), c.candidate.as_str())).collect();
        pairs.dedup();
        let expected = [
            ("shared_round_robin", "dedicated"),
            ("shared_tuned", "dedicated"),
            ("shared_round_robin", "dual_pool"),
            ("shared_tuned", "dual_pool"),
            ("shared_tuned", "shared_tuned_control"),
            ("shared_round_robin", "shared_tuned"),
            ("dedicated", "dual_pool"),
        ];
        assert_eq!(pairs, expected);
        let between_candidates = all.iter().filter(|c| c.baseline == "dedicated");
        assert_eq!(between_candidates.map(|c| c.metric.as_str()).collect::<Vec<_>>(), ["goodput_share"]);
        let planned: Vec<(&str, &str, &str)> =
            all.iter().filter(|c| c.planned).map(|c| (c.baseline.as_str(), c.candidate.as_str(), c.metric.as_str())).collect();
        let metrics = ["ttft_ms.short.p95", "itl_ms.p99", "goodput_share"];
        assert_eq!(planned, metrics.map(|metric| ("shared_tuned", "dual_pool", metric)));
        let others = compare(&[arm("round_robin", 1.0), arm("least_load", 1.0), arm("score", 1.0)]);
        let planned = others.iter().filter(|c| c.planned);
        assert!(planned.clone().all(|c| c.baseline == "least_load") && planned.count() == 3);
    }

    /// Requests of one queue, as engines serve them: how long one waits depends on those before it, and a run as a whole is faster or slower than
    /// the next one of the same arm. The rule has to hold all the same.
    #[test]
    fn the_rule_holds_where_requests_share_a_queue_and_runs_differ() {
        for (runs_differ_by, families) in [(0.0, 60), (0.05, 60), (0.3, 60)] {
            let queue = |name, stretch, seed| (name, synthetic::queue(name, REPETITIONS, 36, stretch, runs_differ_by, seed));
            let wrong = (0..families)
                .filter(|seed| {
                    let all = compare(&[
                        queue("shared_tuned", 1.0, seed * 10),
                        queue("dual_pool", 1.0, seed * 10 + 1),
                        queue("auto", 1.0, seed * 10 + 2),
                    ]);
                    all.iter().any(|c| c.planned && matches!(c.verdict, Verdict::Better | Verdict::Worse))
                })
                .count();
            // One in twenty, and what chance makes of that in so many.
            assert!(wrong <= 7, "runs that differ by {runs_differ_by}: {wrong} of {families} families have a false verdict");
        }
        let found = (0..30)
            .filter(|seed| {
                let queue = |name, stretch, seed| (name, synthetic::queue(name, REPETITIONS, 36, stretch, 0.05, seed));
                let all = compare(&[queue("shared_tuned", 1.0, seed * 10), queue("dual_pool", 1.0 / 1.2, seed * 10 + 1)]);
                of(&all, "dual_pool", "itl_ms.p99").verdict == Verdict::Better
            })
            .count();
        assert!(found >= 24, "an ITL p99 that is 20 % better was found in {found} of 30 runs");
    }
}
