//! Comparisons and verdicts as people read them.

use dualpool_types::artifact::{Comparison, Verdict};

use crate::metric::{Better, Metric};

/// A metric's key in words: `ttft_ms.short.p95` is `short TTFT p95`. A key of another version stays as it is.
pub(crate) fn label(key: &str) -> String {
    Metric::find(key).map_or_else(|| key.to_string(), Metric::label)
}

/// Whether a ratio above 1 is good.
pub(crate) fn higher_is_better(key: &str) -> bool {
    Metric::find(key).is_some_and(|metric| metric.better == Better::Higher)
}

/// `0.61x (0.52-0.70)`, or of shares `+3.1 points (+0.4 to +5.8)`; none where nothing was measured.
pub(crate) fn effect(comparison: &Comparison) -> Option<String> {
    let interval = comparison.ci_low.zip(comparison.ci_high);
    if let Some(difference) = comparison.difference {
        let said = format!("{:+.1} points", difference * 1e2);
        return Some(interval.map_or(said.clone(), |(low, high)| format!("{said} ({:+.1} to {:+.1})", low * 1e2, high * 1e2)));
    }
    let ratio = comparison.ratio?;
    Some(interval.map_or(format!("{ratio:.2}x"), |(low, high)| format!("{ratio:.2}x ({low:.2}-{high:.2})")))
}

pub(crate) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Equivalent => "as good",
        Verdict::Undecided => "undecided",
        Verdict::TooFew => "too few values to tell",
        Verdict::NotMeasured => "not measured",
    }
}

/// Whether a difference is shown, or that there is none.
pub(crate) fn is_decided(comparison: &Comparison) -> bool {
    matches!(comparison.verdict, Verdict::Better | Verdict::Worse | Verdict::Equivalent)
}

/// `short TTFT p95 0.61x (0.52-0.70) better`.
pub(crate) fn finding(comparison: &Comparison) -> String {
    let name = label(&comparison.metric);
    match effect(comparison) {
        Some(effect) => format!("{name} {effect} {}", verdict(comparison.verdict)),
        None => format!("{name} {}", verdict(comparison.verdict)),
    }
}

/// A comparison as it looks from one of its two arms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen<'a> {
    pub metric: &'a str,
    /// The other arm.
    pub against: &'a str,
    pub planned: bool,
    /// Own / other, or of shares own less other, with its interval.
    pub estimate: Option<f64>,
    pub interval: Option<(f64, f64)>,
    pub is_difference: bool,
    /// What the arm is against the other one.
    pub verdict: Verdict,
}

/// None where the arm is neither of the two.
pub(crate) fn seen<'a>(c: &'a Comparison, arm: &str) -> Option<Seen<'a>> {
    let (is_difference, interval) = (c.difference.is_some(), c.ci_low.zip(c.ci_high));
    let own = Seen {
        metric: &c.metric,
        against: &c.baseline,
        planned: c.planned,
        estimate: c.difference.or(c.ratio),
        interval,
        is_difference,
        verdict: c.verdict,
    };
    if c.candidate == arm {
        return Some(own);
    }
    let turned = |effect: f64| if is_difference { -effect } else { 1.0 / effect };
    let verdict = match c.verdict {
        Verdict::Better => Verdict::Worse,
        Verdict::Worse => Verdict::Better,
        neither => neither,
    };
    (c.baseline == arm).then(|| Seen {
        against: &c.candidate,
        estimate: own.estimate.map(turned),
        interval: interval.map(|(low, high)| (turned(high), turned(low))),
        verdict,
        ..own
    })
}

/// All that one arm showed against another, in one sentence: what is better, what is worse, then what is neither.
pub(crate) fn sentence(comparisons: &[&Comparison]) -> String {
    let of = |verdict: Verdict| comparisons.iter().filter(move |c| c.verdict == verdict);
    let mut parts: Vec<String> = of(Verdict::Better).chain(of(Verdict::Worse)).map(|c| finding(c)).collect();
    for rest in [Verdict::Equivalent, Verdict::Undecided, Verdict::TooFew, Verdict::NotMeasured] {
        let names: Vec<String> = of(rest).map(|c| label(&c.metric)).collect();
        if !names.is_empty() {
            parts.push(format!("{}: {}", names.join(", "), verdict(rest)));
        }
    }
    parts.join("; ")
}

/// Comparisons grouped by their pair of arms, in the order of the summary.
pub(crate) fn pairs<'a>(comparisons: &[&'a Comparison]) -> Vec<(&'a str, &'a str, Vec<&'a Comparison>)> {
    let mut pairs: Vec<(&str, &str, Vec<&Comparison>)> = Vec::new();
    for c in comparisons {
        match pairs.iter_mut().find(|(baseline, candidate, _)| (*baseline, *candidate) == (&*c.baseline, &*c.candidate)) {
            Some((_, _, group)) => group.push(c),
            None => pairs.push((&c.baseline, &c.candidate, vec![c])),
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_is_seen_from_either_side() {
        let c = |ratio: Option<f64>, difference: Option<f64>| Comparison {
            baseline: "shared_tuned".into(),
            candidate: "dual_pool".into(),
            metric: "ttft_ms.short.p95".into(),
            planned: true,
            repetitions: 6,
            ratio,
            difference,
            ci_low: ratio.map(|_| 0.4).or(Some(-0.02)),
            ci_high: ratio.map(|_| 0.8).or(Some(0.04)),
            p_value: None,
            visible: None,
            verdict: Verdict::Better,
        };
        let (latency, share) = (c(Some(0.5), None), c(None, Some(0.01)));
        let own = seen(&latency, "dual_pool").unwrap();
        assert_eq!((own.against, own.estimate, own.interval), ("shared_tuned", Some(0.5), Some((0.4, 0.8))));
        let other = seen(&latency, "shared_tuned").unwrap();
        assert_eq!((other.against, other.estimate, other.interval), ("dual_pool", Some(2.0), Some((1.25, 2.5))));
        assert_eq!((own.verdict, other.verdict), (Verdict::Better, Verdict::Worse));
        let other = seen(&share, "shared_tuned").unwrap();
        assert_eq!((other.estimate, other.interval), (Some(-0.01), Some((-0.04, 0.02))));
        assert_eq!(seen(&share, "auto"), None);
    }

    #[test]
    fn a_sentence_says_what_differs_and_what_does_not() {
        let c = |metric: &str, ratio: f64, verdict| Comparison {
            baseline: "shared_tuned".into(),
            candidate: "dual_pool".into(),
            metric: metric.into(),
            planned: false,
            repetitions: 6,
            ratio: Some(ratio),
            difference: None,
            ci_low: Some(ratio * 0.9),
            ci_high: Some(ratio * 1.1),
            p_value: None,
            visible: None,
            verdict,
        };
        let share = Comparison {
            ratio: None,
            difference: Some(0.031),
            ci_low: Some(-0.004),
            ci_high: Some(0.066),
            ..c("goodput_share", 1.0, Verdict::Better)
        };
        let all = [
            c("throughput_rps", 1.0, Verdict::Equivalent),
            c("itl_ms.p50", 1.0, Verdict::Undecided),
            share,
            c("ttft_ms.long.p95", 1.5, Verdict::Worse),
            c("ttft_ms.short.p95", 0.61, Verdict::Better),
            c("some.new.key", 1.0, Verdict::NotMeasured),
        ];
        let said = sentence(&all.iter().collect::<Vec<_>>());
        assert_eq!(
            said,
            "share within objectives +3.1 points (-0.4 to +6.6) better; short TTFT p95 0.61x (0.55-0.67) better; \
             long TTFT p95 1.50x (1.35-1.65) worse; throughput: as good; ITL p50: undecided; some.new.key: not measured"
        );
    }
}
