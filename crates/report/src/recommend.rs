//! What a user should serve with, and why, at full length. The rule is in `choose`; the same in five sentences is `conclusion`.
//!
//! What the choice costs (figures shown to be worse), what would change it (other objectives), and what makes the run a weak
//! witness are caveats.

use dualpool_types::arm::controlled;
use dualpool_types::artifact::{Comparison, Summary, Verdict};

use super::arms::{Arm, arms};
use super::choose::{Choice, Decision, REPETITIONS_MIN, decide, of_shares, share};
use super::objective_map::Turn;
use super::verdicts::{finding, pairs};
use super::words::{count, figure, ms, percent};
use super::{Artifacts, metric};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recommendation {
    /// None when the run does not allow one; the reasons say why.
    pub arm: Option<String>,
    pub reasons: Vec<String>,
    pub caveats: Vec<String>,
}

pub fn recommend(artifacts: &Artifacts) -> Recommendation {
    let Some(summary) = &artifacts.summary else {
        return Recommendation { reasons: vec![NOT_FINISHED.into()], ..Recommendation::default() };
    };
    let all = arms(artifacts);
    let none = |reasons: Vec<String>| Recommendation { arm: None, reasons, caveats: caveats(artifacts, summary, None) };
    match decide(&all, summary) {
        Decision::Exact => Recommendation { reasons: vec![EXACT.into()], ..Recommendation::default() },
        Decision::NoShares => {
            none(vec!["No arm has a share of requests within objectives, so nothing can be recommended.".into()])
        }
        Decision::TooFewRepetitions(_) => {
            none(vec![format!("{} Measure longer, with --budget or --repetitions.", too_few(summary))])
        }
        Decision::NoneServes(candidates) => none(vec![
            within(&candidates, summary),
            "No arm keeps half of its requests within these objectives, so none is to be served with: offer less (--load), ask for less, \
             or add engines. The objective map shows what can be had."
                .to_string(),
        ]),
        Decision::Serve(choice) => {
            let mut caveats = caveats(artifacts, summary, Some(choice.arm));
            caveats.extend(Turn::all(artifacts, &choice).iter().map(|turn| objectives_matter(turn, choice.arm)));
            Recommendation { arm: Some(choice.arm.name.to_string()), reasons: reasons(&choice, summary), caveats }
        }
    }
}

/// Why nothing is recommended from a run without figures.
pub(crate) const NOT_FINISHED: &str =
    "The run is not finished, or it was stopped before its figures were made: there are no comparisons to decide by.";

/// Why nothing is recommended from an exact run.
pub(crate) const EXACT: &str = "An exact run compares tokens, not speed: its requests were alone on the engines.";

/// Why nothing is recommended from so few repetitions.
pub(crate) fn too_few(summary: &Summary) -> String {
    let repetitions = count(summary.repetitions.into(), "repetition");
    format!("{repetitions} per arm decide nothing; a verdict takes {REPETITIONS_MIN} at least.")
}

fn within(candidates: &[&Arm], summary: &Summary) -> String {
    let o = summary.objectives;
    format!(
        "Within your objectives (first token of short prompts in {} ms, of long ones in {} ms, no gap over {} ms): {}.",
        ms(o.ttft_short_ms),
        ms(o.ttft_long_ms),
        ms(o.itl_ms),
        candidates.iter().map(|a| format!("{} {}%", a.name, percent(share(a)))).collect::<Vec<_>>().join(", "),
    )
}

fn reasons(choice: &Choice, summary: &Summary) -> Vec<String> {
    let Choice { arm, leader, as_good, candidates, failed, repeated, .. } = choice;
    let mut reasons = vec![within(candidates, summary)];
    let others: Vec<&str> = as_good.iter().map(|a| a.name).filter(|name| *name != arm.name).collect();
    if !others.is_empty() {
        reasons.push(format!("{} is the simplest of the arms between which no difference is shown.", arm.name));
        reasons.extend(others.iter().map(|other| standing(arm.name, other, summary)));
    }
    let who = if arm.name == leader.name { arm.name.to_string() } else { format!("{}, which leads by the figures,", leader.name) };
    let beaten: Vec<&Arm> = candidates.iter().copied().filter(|c| !as_good.iter().any(|a| a.name == c.name)).collect();
    let (paired, unpaired): (Vec<&Arm>, Vec<&Arm>) =
        beaten.into_iter().partition(|a| of_shares(leader.name, a.name, summary).is_some());
    if !paired.is_empty() {
        reasons.push(format!("{who} is shown to keep more requests within objectives than {}.", names(&paired)));
    }
    if !unpaired.is_empty() {
        reasons.push(format!(
            "{who} keeps more requests within objectives than {}, by the figures alone: they were not compared in pairs.",
            names(&unpaired)
        ));
    }
    reasons.extend(findings(arm, summary, Verdict::Better).map(|(against, what)| format!("Against {against}: {what}.")));
    reasons.extend(
        repeated.iter().map(|(arm, same)| format!("{} has the same arrangement as {}, whose figures count.", arm.name, same.name)),
    );
    if !failed.is_empty() {
        reasons.push(format!("Not considered, because requests failed: {}.", names(failed)));
    }
    reasons
}

fn names(arms: &[&Arm]) -> String {
    arms.iter().map(|a| a.name).collect::<Vec<_>>().join(", ")
}

/// How another arm that stays in the choice stands to the one that is recommended.
fn standing(choice: &str, other: &str, summary: &Summary) -> String {
    let seen = of_shares(other, choice, summary);
    match seen.map(|seen| (seen.verdict, seen.interval)) {
        Some((Verdict::Equivalent, _)) => format!("{other} keeps as many requests within objectives."),
        Some((_, Some((_, gain)))) if gain > 0.0 => {
            format!("Whether {other} keeps more is undecided: it could gain up to {:.1} points.", gain * 1e2)
        }
        _ => format!("Whether {other} keeps more is undecided."),
    }
}

/// What the choice showed against each baseline, other than the share within objectives: `(baseline, findings)`.
fn findings<'a>(choice: &'a Arm, summary: &'a Summary, verdict: Verdict) -> impl Iterator<Item = (&'a str, String)> {
    let own = summary.comparisons.iter().filter(move |c| c.candidate == choice.name && c.verdict == verdict);
    let own: Vec<&Comparison> = own.filter(|c| c.metric != metric::GOODPUT.key).collect();
    pairs(&own).into_iter().map(|(baseline, _, group)| {
        let said: Vec<String> = group.iter().map(|c| finding(c)).collect();
        (baseline, said.join(", "))
    })
}

/// Arms that take less than they are offered.
pub(crate) fn overloaded<'a>(arms: impl IntoIterator<Item = &'a Arm<'a>>) -> impl Iterator<Item = &'a str> {
    arms.into_iter().filter(|arm| arm.figures.overloaded == Some(true)).map(|arm| arm.name)
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
    let all = arms(artifacts);
    let overloaded: Vec<&str> = overloaded(&all).collect();
    if !overloaded.is_empty() {
        let names = overloaded.join(", ");
        caveats.push(format!("Overloaded, so that the figures depend on how long a repetition is: {names}. Offer less (--load)."));
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

/// Under which other objectives another arm would lead.
fn objectives_matter(turn: &Turn, choice: &Arm) -> String {
    format!(
        "With {} of {} ms instead ({}), {} would lead with {}%, {} having {}%.",
        turn.objective.with_article(),
        figure(turn.limit_ms),
        turn.direction(),
        turn.leaders.join(", "),
        percent(turn.best),
        choice.name,
        percent(turn.own),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use dualpool_types::artifact::{ErrorCount, Identical};

    fn summary(artifacts: &mut Artifacts) -> &mut Summary {
        artifacts.summary.as_mut().unwrap()
    }

    /// Sets an arm's share within objectives and what it showed against `shared_tuned` on it.
    fn set(artifacts: &mut Artifacts, arm: &str, share: f64, verdict: Verdict) {
        let summary = summary(artifacts);
        summary.arms.iter_mut().find(|a| a.name == arm).unwrap().goodput_share = Some(share);
        for c in &mut summary.comparisons {
            if c.candidate == arm && c.baseline == "shared_tuned" && c.metric == "goodput_share" {
                c.verdict = verdict;
            }
        }
    }

    /// As an earlier version compared: candidates with baselines alone.
    fn all_alike() -> Artifacts {
        let mut artifacts = fixture::small();
        let baselines = ["shared_least_load", "shared_tuned"];
        summary(&mut artifacts).comparisons.retain(|c| baselines.contains(&&*c.baseline));
        for arm in ["shared_least_load", "shared_tuned", "full_disaggregation", "dual_pool"] {
            set(&mut artifacts, arm, 0.9, Verdict::Undecided);
        }
        artifacts
    }

    #[test]
    fn no_difference_leads_to_the_simplest() {
        let said = recommend(&all_alike());
        assert_eq!(said.arm.as_deref(), Some("shared_least_load"));
        assert!(said.reasons.join(" ").contains("is the simplest of the arms between which no difference is shown"), "{said:?}");
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
        assert!(said.reasons[0].contains("not finished"), "{said:?}");
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
