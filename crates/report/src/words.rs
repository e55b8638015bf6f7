//! Figures and verdicts as people read them.

use dualpool_types::artifact::{Comparison, Verdict};

/// What stands where a figure was not measured.
pub const NOT_MEASURED: &str = "n/m";

/// Three significant digits, no exponent: `0.61`, `8.2`, `143`, `12400`.
pub fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 99.95 || v == 0.0 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.01 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// Milliseconds: whole ones from 10 up.
pub fn ms(value: f64) -> String {
    if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// A share as a percentage, without the sign. Only what is all is called 100, and only what is nothing 0.
pub fn percent(share: f64) -> String {
    let text = format!("{:.1}", share * 100.0);
    match text.as_str() {
        "100.0" if share < 1.0 => ">99.9".to_string(),
        "0.0" if share > 0.0 => "<0.1".to_string(),
        "100.0" => "100".to_string(),
        _ => text,
    }
}

pub fn or_not_measured(value: Option<f64>, write: fn(f64) -> String) -> String {
    value.map_or(NOT_MEASURED.to_string(), write)
}

/// A metric's key in `summary.json` in words: `ttft_ms.short.p95` is `short TTFT p95`. A key not known here stays as it is.
pub fn metric(key: &str) -> String {
    let parts: Vec<&str> = key.split('.').collect();
    match parts.as_slice() {
        ["goodput_share"] => "goodput".into(),
        ["throughput_rps"] => "throughput".into(),
        ["output_tokens_per_s"] => "output tokens/s".into(),
        ["completion_ms"] => "completion time".into(),
        ["ttft_ms", "overall", q] => format!("TTFT {q}"),
        ["ttft_ms", pool @ ("prefill_pool" | "decode_pool"), q] => format!("TTFT {q} of the {}", pool.replace('_', " ")),
        ["ttft_ms", class, q] => format!("{class} TTFT {q}"),
        ["routing", "cached_share"] => "cached share".into(),
        ["itl_ms", q] => format!("ITL {q}"),
        ["queue_depth_mean", role] => format!("mean {role} queue depth"),
        ["handoffs", rest] => format!("hand-off {}", rest.replace('_', " ")),
        _ => key.into(),
    }
}

/// Whether a ratio above 1 is good.
pub fn higher_is_better(key: &str) -> bool {
    ["goodput", "throughput", "output_tokens", "tokens_per"].iter().any(|prefix| key.starts_with(prefix))
}

/// `0.61x (0.52-0.70)`; none when there is no ratio.
pub fn ratio(comparison: &Comparison) -> Option<String> {
    let ratio = comparison.ratio?;
    Some(match (comparison.ci_low, comparison.ci_high) {
        (Some(low), Some(high)) => format!("{ratio:.2}x ({low:.2}-{high:.2})"),
        _ => format!("{ratio:.2}x"),
    })
}

pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::NoDifferenceShown => "no difference shown",
        Verdict::NotMeasured => "not measured",
    }
}

/// `short TTFT p95 0.61x (0.52-0.70) better`.
pub fn finding(comparison: &Comparison) -> String {
    let name = metric(&comparison.metric);
    match ratio(comparison) {
        Some(ratio) => format!("{name} {ratio} {}", verdict(comparison.verdict)),
        None => format!("{name} {}", verdict(comparison.verdict)),
    }
}

/// All that one arm showed against another, in one sentence: what is better, what is worse, then what shows no difference.
pub fn sentence(comparisons: &[&Comparison]) -> String {
    let of = |verdict: Verdict| comparisons.iter().filter(move |c| c.verdict == verdict);
    let mut parts: Vec<String> = of(Verdict::Better).chain(of(Verdict::Worse)).map(|c| finding(c)).collect();
    for rest in [Verdict::NoDifferenceShown, Verdict::NotMeasured] {
        let names: Vec<String> = of(rest).map(|c| metric(&c.metric)).collect();
        if !names.is_empty() {
            parts.push(format!("{}: {}", names.join(", "), verdict(rest)));
        }
    }
    parts.join("; ")
}

/// Comparisons grouped by their pair of arms, in the order of the summary.
pub fn pairs<'a>(comparisons: &[&'a Comparison]) -> Vec<(&'a str, &'a str, Vec<&'a Comparison>)> {
    let mut pairs: Vec<(&str, &str, Vec<&Comparison>)> = Vec::new();
    for c in comparisons {
        match pairs.iter_mut().find(|(baseline, candidate, _)| (*baseline, *candidate) == (&*c.baseline, &*c.candidate)) {
            Some((_, _, group)) => group.push(c),
            None => pairs.push((&c.baseline, &c.candidate, vec![c])),
        }
    }
    pairs
}

/// `1 request`, `2 requests`.
pub fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!(
            [0.0, 0.004, 0.613, 8.24, 42.97, 143.4, 12_400.0].map(figure),
            ["0", "0.004", "0.61", "8.24", "43.0", "143", "12400"]
        );
        assert_eq!([0.25, 9.94, 9.96, 1234.5].map(ms), ["0.2", "9.9", "10", "1234"]);
    }

    #[test]
    fn only_all_is_called_all() {
        assert_eq!([0.0, 0.0001, 0.975, 0.9999, 1.0].map(percent), ["0.0", "<0.1", "97.5", ">99.9", "100"]);
    }

    #[test]
    fn a_sentence_says_what_differs_and_what_does_not() {
        let c = |metric: &str, ratio: f64, verdict| Comparison {
            baseline: "shared_tuned".into(),
            candidate: "dual_pool".into(),
            metric: metric.into(),
            ratio: Some(ratio),
            ci_low: Some(ratio * 0.9),
            ci_high: Some(ratio * 1.1),
            verdict,
        };
        let all = [
            c("throughput_rps", 1.0, Verdict::NoDifferenceShown),
            c("ttft_ms.long.p95", 1.5, Verdict::Worse),
            c("ttft_ms.short.p95", 0.61, Verdict::Better),
            c("some.new.key", 1.0, Verdict::NotMeasured),
        ];
        let said = sentence(&all.iter().collect::<Vec<_>>());
        assert_eq!(
            said,
            "short TTFT p95 0.61x (0.55-0.67) better; long TTFT p95 1.50x (1.35-1.65) worse; \
             throughput: no difference shown; some.new.key: not measured"
        );
    }
}
