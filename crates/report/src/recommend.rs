//! What a user should serve with, and why.
//!
//! The rules:
//! 1. The goal is the share of requests within the user's objectives. Arms that failed requests are not candidates while another arm failed none. A
//!    control is never one. An exact run says nothing of speed, so nothing is recommended from it.
//! 2. The candidate with the highest share leads. Every candidate that it was not shown to beat stays in the choice, be it equivalent or
//!    undecided; where the run holds no such comparison, those stay whose shares are at most `TIE_SHARE` apart.
//! 3. Of those that stay, the simplest is recommended: one pool before two, no KV moves before KV moves, default scheduler
//!    settings before tuned ones. A split has to earn its place.
//!
//! What the choice costs (figures shown to be worse), what would change it (other objectives), and what makes the run a weak
//! witness are caveats.

use std::cmp::Reverse;

use dualpool_types::Tuning;
use dualpool_types::arm::controlled;
use dualpool_types::artifact::{Comparison, Summary, Verdict};

use super::arms::{Arm, arms};
use super::objective_map::{ObjectiveMap, TIE_SHARE, objectives};
use super::verdicts::{finding, pairs};
use super::words::{count, figure, ms, percent};
use super::{Artifacts, metric};

/// An arrangement that keeps fewer of its requests within objectives is none to serve with.
const SERVED_MIN: f64 = 0.5;

/// Fewer repetitions than this decide nothing.
pub const REPETITIONS_MIN: u32 = 6;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recommendation {
    /// None when the run does not allow one; the reasons say why.
    pub arm: Option<String>,
    pub reasons: Vec<String>,
    pub caveats: Vec<String>,
}

pub fn recommend(artifacts: &Artifacts) -> Recommendation {
    let Some(summary) = &artifacts.summary else {
        let reason = "The run ended before its figures were made, so there are no comparisons to decide by. Repeat it.";
        return Recommendation { reasons: vec![reason.into()], ..Recommendation::default() };
    };
    if summary.exact {
        let reason = "An exact run compares tokens, not speed: its requests were alone on the engines.";
        return Recommendation { reasons: vec![reason.into()], ..Recommendation::default() };
    }
    let all = arms(artifacts);
    let measured: Vec<&Arm> = all.iter().filter(|a| !a.control && a.figures.goodput_share.is_some()).collect();
    let sound: Vec<&Arm> = measured.iter().copied().filter(|a| a.figures.errors.is_empty()).collect();
    let candidates = if sound.is_empty() { &measured } else { &sound };
    let Some(leader) = candidates.iter().copied().min_by_key(|a| Reverse(ordered(goodput(a)))) else {
        let reasons = vec!["No arm has a share of requests within objectives, so nothing can be recommended.".to_string()];
        return Recommendation { arm: None, reasons, caveats: caveats(artifacts, summary, None) };
    };
    let caveats_of = |choice| caveats(artifacts, summary, choice);
    if summary.repetitions < REPETITIONS_MIN {
        let repetitions = count(summary.repetitions.into(), "repetition");
        let mend = "measure longer, with --budget or --repetitions";
        let reason = format!("{repetitions} per arm decide nothing; a verdict takes {REPETITIONS_MIN} at least: {mend}.");
        return Recommendation { arm: None, reasons: vec![reason], caveats: caveats_of(None) };
    }
    if goodput(leader) < SERVED_MIN {
        let reasons = vec![
            within(candidates, summary),
            "No arm keeps half of its requests within these objectives, so none is to be served with: offer less (--load), ask for less, \
             or add engines. The objective map shows what can be had."
                .to_string(),
        ];
        return Recommendation { arm: None, reasons, caveats: caveats_of(None) };
    }
    let as_good: Vec<&Arm> = candidates.iter().copied().filter(|a| a.name == leader.name || !beats(leader, a, summary)).collect();
    // `as_good` holds the leader at least, and ties keep the order of the run.
    let choice = as_good.iter().copied().min_by_key(|a| complexity(a)).unwrap_or(leader);

    let mut reasons = reasons(choice, leader, &as_good, candidates, summary);
    let excluded: Vec<&str> = measured.iter().filter(|a| !candidates.iter().any(|c| c.name == a.name)).map(|a| a.name).collect();
    if !excluded.is_empty() {
        reasons.push(format!("Not considered, because requests failed: {}.", excluded.join(", ")));
    }
    let mut caveats = caveats(artifacts, summary, Some(choice));
    caveats.extend(objective_caveats(artifacts, &measured, choice));
    Recommendation { arm: Some(choice.name.to_string()), reasons, caveats }
}

fn goodput(arm: &Arm) -> f64 {
    arm.figures.goodput_share.unwrap_or(0.0)
}

/// A share as an integer that orders like it.
fn ordered(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * 1e9) as u64
}

/// Whether the first arm has the higher goodput, as far as the run tells.
fn beats(first: &Arm, second: &Arm, summary: &Summary) -> bool {
    compared(first, second, summary).unwrap_or(goodput(first) - goodput(second) > TIE_SHARE)
}

/// Whether a comparison shows the first arm to have the higher goodput; none when the two were not compared.
fn compared(first: &Arm, second: &Arm, summary: &Summary) -> Option<bool> {
    let shows = |candidate: &Arm, baseline: &Arm, verdict: Verdict| {
        let mut own = summary.comparisons.iter().filter(|c| c.metric == metric::GOODPUT.key && c.verdict != Verdict::NotMeasured);
        let between = own.find(|c| c.candidate == candidate.name && c.baseline == baseline.name)?;
        Some(between.verdict == verdict)
    };
    shows(first, second, Verdict::Better).or_else(|| shows(second, first, Verdict::Worse))
}

/// Orders arms from simple to involved. An arm the run does not describe comes last.
fn complexity(arm: &Arm) -> (u8, usize) {
    let Some(arrangement) = arm.arrangement else { return (u8::MAX, 0) };
    (arrangement.policy.plainness(), arrangement.tunings.iter().filter(|t| **t != Tuning::default()).count())
}

fn within(candidates: &[&Arm], summary: &Summary) -> String {
    let o = summary.objectives;
    format!(
        "Within your objectives (first token of short prompts in {} ms, of long ones in {} ms, no gap over {} ms): {}.",
        ms(o.ttft_short_ms),
        ms(o.ttft_long_ms),
        ms(o.itl_ms),
        candidates.iter().map(|a| format!("{} {}%", a.name, percent(goodput(a)))).collect::<Vec<_>>().join(", "),
    )
}

fn reasons(choice: &Arm, leader: &Arm, as_good: &[&Arm], candidates: &[&Arm], summary: &Summary) -> Vec<String> {
    let mut reasons = vec![within(candidates, summary)];
    let others: Vec<&str> = as_good.iter().map(|a| a.name).filter(|name| *name != choice.name).collect();
    if !others.is_empty() {
        reasons.push(format!(
            "{} is the simplest of those that none is shown to beat: {}.",
            choice.name,
            others.iter().map(|other| standing(choice.name, other, summary)).collect::<Vec<_>>().join(", ")
        ));
    }
    let who =
        if choice.name == leader.name { choice.name.to_string() } else { format!("{}, which leads by the figures,", leader.name) };
    let beaten: Vec<&Arm> = candidates.iter().copied().filter(|c| !as_good.iter().any(|a| a.name == c.name)).collect();
    let (paired, unpaired): (Vec<&Arm>, Vec<&Arm>) = beaten.into_iter().partition(|a| compared(leader, a, summary).is_some());
    let names = |arms: &[&Arm]| arms.iter().map(|a| a.name).collect::<Vec<_>>().join(", ");
    if !paired.is_empty() {
        reasons.push(format!("{who} is shown to keep more requests within objectives than {}.", names(&paired)));
    }
    if !unpaired.is_empty() {
        reasons.push(format!(
            "{who} keeps more requests within objectives than {}, by the figures alone: they were not compared in pairs.",
            names(&unpaired)
        ));
    }
    reasons.extend(findings(choice, summary, Verdict::Better).map(|(against, what)| format!("Against {against}: {what}.")));
    reasons
}

/// How another arm stands to the choice: `auto (undecided; it could gain up to 5.8 points)`.
fn standing(choice: &str, other: &str, summary: &Summary) -> String {
    let of = |c: &&Comparison| c.metric == metric::GOODPUT.key;
    let as_candidate = summary.comparisons.iter().filter(of).find(|c| c.candidate == other && c.baseline == choice);
    let as_baseline = summary.comparisons.iter().filter(of).find(|c| c.candidate == choice && c.baseline == other);
    let verdict = as_candidate.or(as_baseline).map(|c| c.verdict);
    let gain = as_candidate.and_then(|c| c.ci_high).or(as_baseline.and_then(|c| c.ci_low).map(|low| -low));
    match (verdict, gain) {
        (Some(Verdict::Equivalent), _) => format!("{other} (as good)"),
        (Some(Verdict::Undecided), Some(gain)) if gain > 0.0 => {
            format!("{other} (undecided; it could gain up to {:.1} points)", gain * 1e2)
        }
        (Some(Verdict::Undecided | Verdict::TooFew), _) => format!("{other} (undecided)"),
        _ => other.to_string(),
    }
}

/// What the choice showed against each baseline, other than goodput: `(baseline, findings)`.
fn findings<'a>(choice: &'a Arm, summary: &'a Summary, verdict: Verdict) -> impl Iterator<Item = (&'a str, String)> {
    let own = summary.comparisons.iter().filter(move |c| c.candidate == choice.name && c.verdict == verdict);
    let own: Vec<&Comparison> = own.filter(|c| c.metric != metric::GOODPUT.key).collect();
    pairs(&own).into_iter().map(|(baseline, _, group)| {
        let said: Vec<String> = group.iter().map(|c| finding(c)).collect();
        (baseline, said.join(", "))
    })
}

fn caveats(artifacts: &Artifacts, summary: &Summary, choice: Option<&Arm>) -> Vec<String> {
    let mut caveats = Vec::new();
    if let Some(choice) = choice {
        caveats.extend(
            findings(choice, summary, Verdict::Worse).map(|(against, what)| format!("Its price against {against}: {what}.")),
        );
        if !choice.figures.errors.is_empty() {
            caveats.push(format!("Requests failed in every arm; {} is the best of a faulty run.", choice.name));
        }
    }
    let unsteady: Vec<String> = control_differences(summary).map(finding).collect();
    if !unsteady.is_empty() {
        caveats.push(format!(
            "The A/A control differs from its own arm ({}): do not build on differences of that size.",
            unsteady.join(", ")
        ));
    }
    if artifacts.run.interrupted {
        caveats.push("The run was stopped early.".into());
    }
    if artifacts.run.quick {
        caveats.push("A quick run: it shows that all works, and no more.".into());
    }
    if artifacts.run.environment.backend.contains("virtual") {
        caveats.push(
            "The engines were virtual (a timing model): this says how the policies compare in the model, not on your machine."
                .into(),
        );
    }
    if summary.arrivals == "all_upfront" {
        caveats.push("All requests arrived at once: this is about draining a batch, not about steady traffic.".into());
    }
    if summary.held_blocks_after > 0 {
        caveats.push(format!(
            "{} stayed held after the run: a fault; do not serve with it.",
            count(summary.held_blocks_after, "KV block")
        ));
    }
    caveats
}

/// What the A/A control shows although there is nothing to show.
pub(crate) fn control_differences(summary: &Summary) -> impl Iterator<Item = &Comparison> {
    summary.comparisons.iter().filter(|c| is_control(c) && matches!(c.verdict, Verdict::Better | Verdict::Worse))
}

/// Whether both sides of a comparison are the same arm.
pub(crate) fn is_control(comparison: &Comparison) -> bool {
    controlled(&comparison.candidate) == Some(&comparison.baseline)
        || controlled(&comparison.baseline) == Some(&comparison.candidate)
}

/// The nearest objectives, tighter or looser, under which another arm would be clearly ahead of the choice.
fn objective_caveats(artifacts: &Artifacts, arms: &[&Arm], choice: &Arm) -> Vec<String> {
    let Some(map) = objectives(artifacts).and_then(|own| ObjectiveMap::of(arms, own)) else { return Vec::new() };
    let Some(chosen) = arms.iter().position(|a| a.name == choice.name) else { return Vec::new() };
    let (column, row) = map.own;
    type Cells = Vec<(usize, usize)>;
    let walks: [(&str, bool, Cells); 4] = [
        ("an ITL objective", true, (0..row).rev().map(|r| (column, r)).collect()),
        ("an ITL objective", false, (row + 1..map.itl_ms.len()).map(|r| (column, r)).collect()),
        ("a short TTFT objective", true, (0..column).rev().map(|c| (c, row)).collect()),
        ("a short TTFT objective", false, (column + 1..map.ttft_ms.len()).map(|c| (c, row)).collect()),
    ];
    let mut said = Vec::new();
    for (what, tighter, cells) in walks {
        let lost = cells.into_iter().find(|&(c, r)| {
            let leaders = map.leaders(c, r);
            !leaders.arms.is_empty() && !leaders.arms.contains(&chosen)
        });
        let Some((c, r)) = lost else { continue };
        let leaders = map.leaders(c, r);
        let names: Vec<&str> = leaders.arms.iter().map(|&i| arms[i].name).collect();
        let limit = if what.contains("ITL") { map.itl_ms[r] } else { map.ttft_ms[c] };
        said.push(format!(
            "With {what} of {} ms instead ({}), {} would lead with {}%, {} having {}%.",
            figure(limit),
            if tighter { "tighter" } else { "looser" },
            names.join(", "),
            percent(leaders.best),
            choice.name,
            percent(map.share[chosen][r][c]),
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use dualpool_types::artifact::{ErrorCount, Identical};

    fn summary(artifacts: &mut Artifacts) -> &mut Summary {
        artifacts.summary.as_mut().unwrap()
    }

    /// Sets an arm's goodput and what it showed against `shared_tuned` on it.
    fn set(artifacts: &mut Artifacts, arm: &str, goodput: f64, verdict: Verdict) {
        let summary = summary(artifacts);
        summary.arms.iter_mut().find(|a| a.name == arm).unwrap().goodput_share = Some(goodput);
        for c in &mut summary.comparisons {
            if c.candidate == arm && c.baseline == "shared_tuned" && c.metric == "goodput_share" {
                c.verdict = verdict;
            }
        }
    }

    fn all_alike() -> Artifacts {
        let mut artifacts = fixture::small();
        for arm in ["shared_least_load", "shared_tuned", "full_disaggregation", "dual_pool"] {
            set(&mut artifacts, arm, 0.9, Verdict::Undecided);
        }
        artifacts
    }

    #[test]
    fn no_difference_leads_to_the_simplest() {
        let said = recommend(&all_alike());
        assert_eq!(said.arm.as_deref(), Some("shared_least_load"));
        assert!(said.reasons.join(" ").contains("is the simplest of those that none is shown to beat"), "{said:?}");
    }

    #[test]
    fn a_split_shown_to_be_better_is_recommended() {
        let mut artifacts = all_alike();
        set(&mut artifacts, "dual_pool", 0.99, Verdict::Better);
        let said = recommend(&artifacts);
        assert_eq!(said.arm.as_deref(), Some("dual_pool"));
        let reasons = said.reasons.join(" ");
        assert!(
            reasons.contains("dual_pool is shown to keep more requests within objectives than shared_least_load, shared_tuned."),
            "{reasons}"
        );
        assert!(reasons.contains("more requests within objectives than full_disaggregation, by the figures alone"), "{reasons}");
    }

    #[test]
    fn a_lead_that_is_not_shown_does_not_count() {
        let mut artifacts = all_alike();
        set(&mut artifacts, "shared_least_load", 0.5, Verdict::Worse);
        set(&mut artifacts, "full_disaggregation", 0.5, Verdict::Worse);
        set(&mut artifacts, "dual_pool", 0.99, Verdict::Undecided);
        assert_eq!(recommend(&artifacts).arm.as_deref(), Some("shared_tuned"));
    }

    #[test]
    fn an_arm_that_failed_requests_is_not_considered() {
        let mut artifacts = all_alike();
        set(&mut artifacts, "dual_pool", 0.99, Verdict::Better);
        let dual = summary(&mut artifacts).arms.iter_mut().find(|a| a.name == "dual_pool").unwrap();
        dual.errors.push(ErrorCount { message: "engine-1 died during decode: killed".into(), count: 1 });
        let said = recommend(&artifacts);
        assert_eq!(said.arm.as_deref(), Some("shared_least_load"));
        assert!(said.reasons.join(" ").contains("Not considered, because requests failed: dual_pool"), "{said:?}");
    }

    #[test]
    fn an_exact_run_recommends_nothing_and_differing_output_excludes_nobody() {
        let mut artifacts = all_alike();
        set(&mut artifacts, "dual_pool", 0.99, Verdict::Better);
        summary(&mut artifacts).identical_requests.insert("dual_pool".into(), Identical { same: 9, compared: 10 });
        assert_eq!(recommend(&artifacts).arm.as_deref(), Some("dual_pool"));
        summary(&mut artifacts).exact = true;
        let said = recommend(&artifacts);
        assert_eq!(said.arm, None);
        assert!(said.reasons[0].contains("tokens, not speed"), "{said:?}");
    }

    #[test]
    fn objectives_nobody_meets_are_said_to_be_so() {
        let mut artifacts = all_alike();
        for arm in &mut summary(&mut artifacts).arms {
            arm.goodput_share = Some(0.0);
        }
        let said = recommend(&artifacts);
        assert_eq!(said.arm, None);
        assert!(said.reasons.join(" ").contains("No arm keeps half of its requests"), "{said:?}");
    }

    #[test]
    fn too_few_repetitions_recommend_nothing() {
        let mut artifacts = all_alike();
        summary(&mut artifacts).repetitions = 5;
        let said = recommend(&artifacts);
        assert_eq!(said.arm, None);
        assert!(said.reasons[0].contains("5 repetitions per arm decide nothing"), "{said:?}");
    }

    #[test]
    fn a_weak_witness_is_called_one() {
        let mut artifacts = all_alike();
        artifacts.run.quick = true;
        artifacts.run.environment.backend = "virtual engines".into();
        let s = summary(&mut artifacts);
        s.held_blocks_after = 2;
        s.arrivals = "all_upfront".into();
        let control = s.comparisons.iter_mut().find(|c| is_control(c)).unwrap();
        control.verdict = Verdict::Worse;
        let caveats = recommend(&artifacts).caveats.join(" ");
        for said in ["A/A control differs", "A quick run", "virtual", "2 KV blocks stayed held", "draining a batch"] {
            assert!(caveats.contains(said), "`{said}` is not in: {caveats}");
        }
    }

    #[test]
    fn without_figures_there_is_no_recommendation() {
        let mut artifacts = fixture::small();
        artifacts.summary = None;
        let said = recommend(&artifacts);
        assert_eq!(said.arm, None);
        assert!(said.reasons[0].contains("Repeat it"), "{said:?}");
    }

    #[test]
    fn reasons_and_caveats_of_the_fixture() {
        let said = recommend(&fixture::large());
        insta::assert_snapshot!(format!(
            "serve with: {}\n\nreasons\n- {}\n\ncaveats\n- {}",
            said.arm.as_deref().unwrap_or("nothing"),
            said.reasons.join("\n- "),
            said.caveats.join("\n- ")
        ));
    }
}
