//! Candidates against baselines: ratios, their intervals, and verdicts in which the A/A control has a say.

use dualpool_report::metric::{Better, Metric};
use dualpool_types::arm::{baselines, controlled};
use dualpool_types::artifact::{Comparison, Verdict};
use dualpool_types::seeded;

use super::bootstrap::Population;
use super::interval::{self, Measured, ratio};
use super::metric::{REQUEST_METRICS, RUN_METRICS, compared};
use super::observed::{Observed, RequestFigures};

/// One arm under its name.
pub(super) struct Arm {
    pub name: String,
    pub observed: Observed,
}

/// Compares every candidate with every baseline, and the control with its arm.
pub(super) fn comparisons(arms: &[Arm], population: &Population, resamples: u32, seed: u64) -> Vec<Comparison> {
    let measurer = Measurer::new(arms, population, resamples, seed);
    let pairs = pairs(arms);
    let control = pairs.iter().copied().find(|&(_, candidate)| controlled(&arms[candidate].name).is_some());
    let noise = control.map(|pair| measurer.measure(pair));
    let in_waves = arms.iter().any(|arm| arm.observed.in_waves());
    let mut comparisons = Vec::new();
    for pair in pairs {
        let noise = noise.as_ref().filter(|_| control != Some(pair));
        let measured = compared().zip(measurer.measure(pair)).enumerate();
        for (m, (metric, measured)) in measured.filter(|(_, (metric, _))| in_waves || !metric.of_waves()) {
            let noise = noise.and_then(|noise| noise[m]);
            let shown = |value: fn(Measured) -> f64| measured.map(value).filter(|v| v.is_finite());
            comparisons.push(Comparison {
                baseline: arms[pair.0].name.clone(),
                candidate: arms[pair.1].name.clone(),
                metric: metric.key.to_string(),
                ratio: shown(|m| m.ratio),
                ci_low: shown(|m| m.low),
                ci_high: shown(|m| m.high),
                verdict: measured.map_or(Verdict::NotMeasured, |m| verdict(m, noise, metric)),
            });
        }
    }
    comparisons
}

/// Baseline and candidate of each comparison, as places in `arms`: every arm that is no baseline against every one that is; and the
/// control against its arm.
fn pairs(arms: &[Arm]) -> Vec<(usize, usize)> {
    let place = |name: &str| arms.iter().position(|a| a.name == name);
    let known: Vec<&str> = baselines().collect();
    let baselines: Vec<usize> = known.iter().filter_map(|name| place(name)).collect();
    let mut pairs = Vec::new();
    for (i, arm) in arms.iter().enumerate() {
        if let Some(repeated) = controlled(&arm.name) {
            pairs.extend(place(repeated).map(|repeated| (repeated, i)));
        } else if !known.contains(&arm.name.as_str()) {
            pairs.extend(baselines.iter().map(|&baseline| (baseline, i)));
        }
    }
    pairs
}

/// Measures the ratio between any two arms.
struct Measurer<'a> {
    arms: &'a [Arm],
    figures: Vec<RequestFigures>,
    /// All arms' figures under each draw; one draw serves all arms.
    resampled: Vec<Vec<RequestFigures>>,
}

impl Measurer<'_> {
    fn new<'a>(arms: &'a [Arm], population: &Population, resamples: u32, seed: u64) -> Measurer<'a> {
        let mut rng = seeded(seed, "bootstrap");
        let mut draw = population.once();
        let figures = |draw: &_| arms.iter().map(|arm| arm.observed.requests(draw)).collect();
        let once = figures(&draw);
        let resampled = (0..resamples)
            .map(|_| {
                population.redraw(&mut draw, &mut rng);
                figures(&draw)
            })
            .collect();
        Measurer { arms, figures: once, resampled }
    }

    /// The ratios of a pair, in the order of `compared`; none where there was too little to measure.
    fn measure(&self, pair: (usize, usize)) -> Vec<Option<Measured>> {
        let requests = (0..REQUEST_METRICS.len()).map(|m| self.by_requests(pair, m));
        let runs = (0..RUN_METRICS.len()).map(|m| self.by_runs(pair, m));
        let failed = [pair.0, pair.1].iter().any(|&arm| self.arms[arm].observed.failed());
        compared().zip(requests.chain(runs)).map(|(metric, m)| m.filter(|_| !failed || metric.counts_failures())).collect()
    }

    fn by_requests(&self, (baseline, candidate): (usize, usize), m: usize) -> Option<Measured> {
        let enough = [baseline, candidate].iter().all(|&arm| self.arms[arm].observed.enough()[m]);
        if !enough {
            return None;
        }
        let of = |figures: &[RequestFigures]| Some(ratio(figures[candidate][m]?, figures[baseline][m]?));
        interval::of_resamples(of(&self.figures)?, self.resampled.iter().map(|figures| of(figures)))
    }

    fn by_runs(&self, (baseline, candidate): (usize, usize), m: usize) -> Option<Measured> {
        let (baseline, candidate) = (&self.arms[baseline].observed, &self.arms[candidate].observed);
        let ratios: Vec<f64> = candidate.runs()[m].iter().zip(&baseline.runs()[m]).map(|(c, b)| ratio(*c, *b)).collect();
        interval::of_repetitions(ratio(candidate.all_runs()[m]?, baseline.all_runs()[m]?), &ratios)
    }
}

/// A difference is shown when the interval excludes 1, and the ratio is further from 1 than the A/A control, which has no difference,
/// reached on the same engines in the same minutes: what noise did in one direction it can do in the other. The control itself (`noise`
/// is none) has only its interval.
fn verdict(measured: Measured, noise: Option<Measured>, metric: &Metric) -> Verdict {
    let excludes_one = measured.low > 1.0 || measured.high < 1.0;
    let beyond_noise = noise.is_none_or(|n| {
        let reach = n.high.max(1.0 / n.low);
        measured.ratio > reach || measured.ratio < 1.0 / reach
    });
    match (excludes_one && beyond_noise, (measured.low > 1.0) == (metric.better == Better::Lower)) {
        (false, _) => Verdict::NoDifferenceShown,
        (true, true) => Verdict::Worse,
        (true, false) => Verdict::Better,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::synthetic;
    use dualpool_types::records::{Outcome, RequestRecord};
    use dualpool_types::{Phase, RequestError};

    const REPETITIONS: u32 = 3;
    const REQUESTS: u32 = 60;

    fn compare(arms: &[(&str, Vec<RequestRecord>)]) -> Vec<Comparison> {
        let (population, first_slot, slots) = synthetic::population(&arms[0].1);
        let arms: Vec<Arm> = arms
            .iter()
            .map(|(name, requests)| Arm {
                name: name.to_string(),
                observed: Observed::new(&synthetic::by_repetition(requests), &first_slot, slots),
            })
            .collect();
        comparisons(&arms, &population, 400, 1)
    }

    fn arm(name: &str, stretch: f64) -> (&str, Vec<RequestRecord>) {
        (name, synthetic::arm(name, REPETITIONS, REQUESTS, stretch))
    }

    fn of<'a>(comparisons: &'a [Comparison], candidate: &str, metric: &str) -> &'a Comparison {
        comparisons.iter().find(|c| c.candidate == candidate && c.metric == metric).expect("this pair is compared")
    }

    #[test]
    fn identical_data_show_no_difference() {
        let all = compare(&[arm("shared_tuned", 1.0), arm("dual_pool", 1.0), arm("shared_tuned_control", 1.0)]);
        assert_eq!(all.len(), 2 * compared().filter(|metric| !metric.of_waves()).count());
        for c in &all {
            assert_eq!((c.ratio, c.ci_low, c.ci_high), (Some(1.0), Some(1.0), Some(1.0)), "{}", c.metric);
            assert_eq!(c.verdict, Verdict::NoDifferenceShown, "{}", c.metric);
        }
    }

    #[test]
    fn a_clear_shift_is_found_in_both_directions() {
        let noisy = |name, stretch, seed| (name, synthetic::noisy(name, REPETITIONS, REQUESTS, stretch, seed));
        for seed in 0..5 {
            let all = compare(&[
                noisy("shared_tuned", 1.0, seed),
                noisy("dual_pool", 0.5, seed + 100),
                noisy("shared_tuned_control", 1.0, seed + 200),
            ]);
            for metric in ["ttft_ms.short.p95", "ttft_ms.overall.p50", "itl_ms.p50", "itl_ms.p99"] {
                let c = of(&all, "dual_pool", metric);
                assert_eq!(c.verdict, Verdict::Better, "seed {seed}: {c:?}");
                assert!((0.35..0.65).contains(&c.ratio.unwrap()), "seed {seed}: {c:?}");
            }
            let slower = compare(&[noisy("shared_tuned", 1.0, seed), noisy("auto", 2.0, seed + 100)]);
            assert_eq!(of(&slower, "auto", "itl_ms.p50").verdict, Verdict::Worse, "seed {seed}");
        }
    }

    /// Noise alone is called a difference about as seldom as the interval promises.
    #[test]
    fn noise_is_rarely_called_a_difference() {
        let (mut called, mut compared) = (0, 0);
        for seed in 0..30 {
            let noisy = |name, seed| (name, synthetic::noisy(name, REPETITIONS, REQUESTS, 1.0, seed));
            let all = compare(&[
                noisy("shared_tuned", seed),
                noisy("dual_pool", seed + 1000),
                noisy("shared_tuned_control", seed + 2000),
            ]);
            let candidates = all.iter().filter(|c| c.candidate == "dual_pool" && c.metric.starts_with("ttft_ms"));
            for c in candidates {
                compared += 1;
                called += usize::from(c.verdict != Verdict::NoDifferenceShown);
            }
        }
        assert!(
            called * 10 <= compared,
            "{called} of {compared} comparisons of noise with noise were called a difference, seeds 0..30"
        );
    }

    #[test]
    fn goodput_from_nothing_to_something_is_better_without_a_ratio() {
        let all = compare(&[arm("shared_tuned", 100.0), arm("dual_pool", 0.1), arm("shared_tuned_control", 100.0)]);
        let c = of(&all, "dual_pool", "goodput_share");
        assert_eq!((c.ratio, c.ci_high, c.verdict), (None, None, Verdict::Better));
        let back = compare(&[arm("shared_tuned", 0.1), arm("dual_pool", 100.0)]);
        let c = of(&back, "dual_pool", "goodput_share");
        assert_eq!((c.ratio, c.verdict), (Some(0.0), Verdict::Worse));
    }

    #[test]
    fn one_run_says_nothing_about_runs() {
        let one = |name| (name, synthetic::arm(name, 1, REQUESTS, 1.0));
        let all = compare(&[one("shared_tuned"), one("dual_pool")]);
        assert_eq!(of(&all, "dual_pool", "throughput_rps").verdict, Verdict::NotMeasured);
        assert_eq!(of(&all, "dual_pool", "completion_ms").ratio, None);
        assert_eq!(of(&all, "dual_pool", "itl_ms.p50").verdict, Verdict::NotMeasured);
    }

    #[test]
    fn a_quantile_that_nothing_lies_beyond_is_not_measured() {
        // Two repetitions of 45 requests: 18 long ones, 72 short ones.
        let few = |name, stretch| (name, synthetic::arm(name, 2, 45, stretch));
        let all = compare(&[few("shared_tuned", 1.0), few("dual_pool", 0.5)]);
        let verdict = |metric| of(&all, "dual_pool", metric).verdict;
        assert_eq!(verdict("ttft_ms.long.p95"), Verdict::NotMeasured);
        assert_eq!((verdict("ttft_ms.short.p95"), verdict("itl_ms.p99")), (Verdict::Better, Verdict::Better));
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
    fn a_shift_within_the_controls_own_interval_is_not_a_difference() {
        let metric = REQUEST_METRICS[0];
        let shift = Measured { ratio: 0.9, low: 0.85, high: 0.95 };
        let quiet = Measured { ratio: 1.0, low: 0.97, high: 1.02 };
        let noisy = Measured { ratio: 0.95, low: 0.8, high: 1.1 };
        assert_eq!(verdict(shift, Some(quiet), &metric), Verdict::Better);
        assert_eq!(verdict(shift, Some(noisy), &metric), Verdict::NoDifferenceShown);
        assert_eq!(verdict(quiet, Some(quiet), &metric), Verdict::NoDifferenceShown);
        // A control that went far down may as well have gone far up.
        let lucky = Measured { ratio: 0.6, low: 0.5, high: 0.7 };
        assert_eq!(verdict(shift, Some(lucky), &metric), Verdict::NoDifferenceShown);
    }

    #[test]
    fn every_metric_knows_which_way_is_better() {
        let up = Measured { ratio: 2.0, low: 1.9, high: 2.1 };
        for metric in compared() {
            let better_when_up = matches!(metric.key, "throughput_rps" | "goodput_share");
            assert_eq!(verdict(up, None, metric) == Verdict::Better, better_when_up, "{}", metric.key);
        }
    }

    #[test]
    fn candidates_meet_all_shared_baselines_and_the_control_its_arm() {
        let names = ["shared_round_robin", "shared_tuned", "dual_pool", "auto", "shared_round_robin_control"];
        let all = compare(&names.map(|n| arm(n, 1.0)));
        let mut pairs: Vec<(&str, &str)> = all.iter().map(|c| (c.baseline.as_str(), c.candidate.as_str())).collect();
        pairs.dedup();
        let expected = [
            ("shared_round_robin", "dual_pool"),
            ("shared_tuned", "dual_pool"),
            ("shared_round_robin", "auto"),
            ("shared_tuned", "auto"),
            ("shared_round_robin", "shared_round_robin_control"),
        ];
        assert_eq!(pairs, expected);
    }
}
