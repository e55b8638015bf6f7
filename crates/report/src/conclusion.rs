//! What a run comes to, in at most five sentences: what to do, how sure that is, what it costs, what would change it, and what is open. The end of a
//! run on the terminal and the report begin with the same ones.

use dualpool_types::Arm as KnownArm;
use dualpool_types::artifact::{Comparison, Summary, Verdict};

use super::arms::{Arm, arms};
use super::choose::{Choice, Decision, MARGIN_SHARE, REPETITIONS_MIN, decide, of_shares, serves, share};
use super::objective_map::{Objective, Turn};
use super::recommend::{EXACT, NOT_FINISHED, control_differences, is_control, overloaded, too_few};
use super::verdicts::{Seen, label, seen};
use super::words::{count, figure, listed, percent};
use super::{Artifacts, command, metric};

/// Where every arm keeps more than this, the load is no test of them.
const ALL_SERVE_MIN: f64 = 0.99;

/// So many times the repetitions halve an interval.
const REPETITIONS_FOR_HALF: u32 = 4;

/// What is said where no turn is found.
const UNCHANGED: &str = "Other objectives would not change this, where any arm keeps half of its requests";

/// Figures that are named as the price of a choice; the report has all of them.
const PRICES_MAX: usize = 2;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conclusion {
    pub sentences: Vec<String>,
    /// The command that goes on, where there is something left to find out.
    pub command: Option<String>,
}

pub fn conclude(artifacts: &Artifacts) -> Conclusion {
    let Some(summary) = &artifacts.summary else {
        return Conclusion { sentences: vec![format!("No recommendation: {}", lower(NOT_FINISHED))], command: None };
    };
    let all = arms(artifacts);
    match decide(&all, summary) {
        Decision::Exact => {
            Conclusion { sentences: vec![format!("No recommendation: {}", lower(EXACT)), same_tokens(summary)], command: None }
        }
        Decision::NoShares => Conclusion {
            sentences: vec!["No recommendation: no repetition was finished by every arm, so there are no figures.".into()],
            command: goes_on(artifacts, REPETITIONS_MIN),
        },
        Decision::TooFewRepetitions(candidates) => Conclusion {
            sentences: [format!("No recommendation: {}", too_few(summary)), shares(&candidates)]
                .into_iter()
                .chain(left_out(artifacts).map(|arms| format!("There was no time for {arms}.")))
                .chain(["To measure as much as a verdict takes:".into()])
                .collect(),
            command: goes_on(artifacts, REPETITIONS_MIN),
        },
        Decision::NoneServes(candidates) => none_serves(artifacts, &candidates),
        Decision::Serve(choice) => {
            let (open, command) = open(artifacts, summary);
            let sentences = vec![
                what_to_do(artifacts, &choice),
                how_sure(&choice, summary),
                what_it_costs(&choice, summary),
                what_would_change_it(artifacts, &choice),
                open,
            ];
            Conclusion { sentences, command }
        }
    }
}

fn what_to_do(artifacts: &Artifacts, choice: &Choice) -> String {
    let repeated = choice.repeated.iter().filter(|(_, same)| same.name == choice.arm.name).map(|(arm, _)| arm.name);
    let merged = artifacts.run.stands_for.get(choice.arm.name).into_iter().flatten().map(String::as_str);
    let same: Vec<&str> = repeated.chain(merged).collect();
    let same = if same.is_empty() { String::new() } else { format!(", the same arrangement as {}", listed(&same)) };
    let is = choice.arm.arrangement.map_or(String::new(), |arrangement| format!(" ({})", arrangement.describe().full));
    let why = match (choice.candidates.len(), choice.as_good.len()) {
        (1, _) => "no other arm ran",
        (_, 1) => "it keeps the most requests within the objectives",
        _ => "no arm is shown to keep more requests within the objectives, and it is the simplest",
    };
    format!("Serve with {}{same}{is}: {why}.", choice.arm.name)
}

/// The comparison that decided, whatever its verdict.
fn how_sure(choice: &Choice, summary: &Summary) -> String {
    let Choice { arm, rival, .. } = choice;
    let keeps = format!("keeps {}% of its requests within the objectives", percent(share(arm)));
    let Some(rival) = rival else { return format!("It {keeps}, over {}; no other arm ran.", over(summary)) };
    let doubt = match control_differences(summary).any(|c| c.metric == metric::GOODPUT.key) {
        true => "; the A/A control differs from its own arm, too, so do not build on it",
        false => "",
    };
    // How the rival stands to the arm.
    let seen = of_shares(rival.name, arm.name, summary);
    let Some((seen, apart, (low, high))) = seen.and_then(|seen| Some((seen, seen.estimate?, seen.interval?))) else {
        return format!(
            "It {keeps} and {} {}%, by the figures alone: the two were not compared.",
            rival.name,
            percent(share(rival))
        );
    };
    let rests = format!("95% interval {} to {}, {}", points(low), points(high), over(summary));
    let apart = format!("{} points ({rests})", points(apart));
    let more = format!("{doubt}{}", overload(choice));
    match seen.verdict {
        Verdict::Worse => format!("It {keeps}; {} is shown to keep fewer: {apart}{more}.", rival.name),
        Verdict::Equivalent => {
            let margin = MARGIN_SHARE * 1e2;
            format!("It {keeps}; {} is as good, within {margin:.0} points: {apart}{more}.", rival.name)
        }
        _ => format!("It {keeps}; whether {} keeps more is undecided: {apart}{more}.", rival.name),
    }
}

/// Figures of arms that take less than they are offered are figures of how long they were measured.
fn overload(choice: &Choice) -> String {
    let names: Vec<&str> = overloaded(choice.candidates.iter().copied()).collect();
    if names.is_empty() { String::new() } else { format!("; overloaded, so the longer the worse: {}", listed(&names)) }
}

fn over(summary: &Summary) -> String {
    count(summary.repetitions.into(), "repetition")
}

/// `+1.8`, of a difference of shares.
fn points(difference: f64) -> String {
    format!("{:+.1}", difference * 1e2)
}

/// Figures that are shown to be worse than another arm's: each against the best arm that it is worse than, the planned ones first.
fn what_it_costs(choice: &Choice, summary: &Summary) -> String {
    let arm = choice.arm.name;
    let share_of = |name: &str| choice.candidates.iter().find(|a| a.name == name && a.name != arm).map(|a| share(a));
    let seen = summary.comparisons.iter().filter(|c| !is_control(c)).filter_map(|c| seen(c, arm));
    let mut worse: Vec<(Seen, f64)> =
        seen.filter(|seen| seen.verdict == Verdict::Worse).filter_map(|seen| Some((seen, share_of(seen.against)?))).collect();
    worse.sort_by(|(a, a_share), (b, b_share)| b.planned.cmp(&a.planned).then(b_share.total_cmp(a_share)));
    let mut prices: Vec<Seen> = Vec::new();
    for (seen, _) in worse {
        if !prices.iter().any(|price| price.metric == seen.metric) {
            prices.push(seen);
        }
    }
    if prices.is_empty() {
        return "It costs nothing that was measured: none of its figures is shown to be worse than another arm's.".into();
    }
    let named: Vec<String> = prices.iter().take(PRICES_MAX).map(price).collect();
    let more = prices.len().saturating_sub(PRICES_MAX);
    let more = if more > 0 { format!("; {} more in the report", count(more as u64, "figure")) } else { String::new() };
    format!("What {arm} costs: {}{more}.", named.join(", and "))
}

fn price(worse: &Seen) -> String {
    let name = label(worse.metric);
    match (worse.estimate, worse.interval) {
        (Some(apart), Some((low, high))) if worse.is_difference => {
            format!("{name} {} points against {} (95% interval {} to {})", points(apart), worse.against, points(low), points(high))
        }
        (Some(ratio), Some((low, high))) => {
            format!("{name} {ratio:.2}x that of {} (95% interval {low:.2} to {high:.2})", worse.against)
        }
        _ => format!("{name} against {}", worse.against),
    }
}

fn what_would_change_it(artifacts: &Artifacts, choice: &Choice) -> String {
    let turns = Turn::all(artifacts, choice);
    let turns = turns.iter().filter(|turn| serves(turn.best));
    let nearest = turns.min_by(|a, b| a.distance().total_cmp(&b.distance()));
    let turned = nearest.map(|turn| {
        let objective = match turn.objective {
            Objective::Itl => "ITL",
            Objective::ShortTtft => "short TTFT",
        };
        let (limit, own) = (figure(turn.limit_ms), figure(turn.own_limit_ms));
        let (leaders, best, kept) =
            (listed(&turn.leaders.iter().map(String::as_str).collect::<Vec<_>>()), percent(turn.best), percent(turn.own));
        format!("a {} {objective} objective ({limit} ms, not {own}) would let {leaders} lead, {best}% to {kept}%", turn.direction())
    });
    let harder = harder_load(artifacts).map(|load| format!("a higher load (--load {load})"));
    if choice.candidates.len() > 1 && choice.candidates.iter().all(|a| share(a) > ALL_SERVE_MIN) {
        let all = if choice.candidates.len() == 2 { "Both arms keep" } else { "All arms keep" };
        if let Some(parts) = &artifacts.run.parts_at {
            let load = parts.load;
            let shares: Vec<String> = parts.shares.iter().map(|(arm, share)| format!("{arm} {}%", percent(*share))).collect();
            let shares = shares.join(", ");
            let percent = load * 100.0;
            return format!(
                "{all} over 99% here; at {percent:.0} % load a simulation, not a measurement, has {shares}: see with --load {load}."
            );
        }
        let harder = harder.unwrap_or_else(|| "tighter objectives (--itl-ms, --ttft-short-ms)".into());
        let turned = turned.map_or(String::new(), |turned| format!("; {turned}"));
        return format!("{all} over 99% here, so this load does not tell them apart: try {harder}{turned}.");
    }
    match (turned, harder) {
        (Some(turned), _) => format!("What would change this: {turned}."),
        (None, Some(harder)) => format!("{UNCHANGED}; {harder} might."),
        (None, None) => format!("{UNCHANGED}."),
    }
}

/// Half of the way to saturation, in steps of 0.05; none where there is no way left to go or no saturation is known.
fn harder_load(artifacts: &Artifacts) -> Option<f64> {
    let load = offered_load(artifacts)?;
    let harder = ((load + 1.0) / 2.0 * 20.0).round() / 20.0;
    (harder > load && harder < 1.0).then_some(harder)
}

/// The offered load as a share of saturation.
pub(crate) fn offered_load(artifacts: &Artifacts) -> Option<f64> {
    Some(artifacts.run.rate_rps? / artifacts.run.saturation_rps?).filter(|load| load.is_finite() && *load > 0.0)
}

/// What the run leaves open, and the command that goes on.
fn open(artifacts: &Artifacts, summary: &Summary) -> (String, Option<String>) {
    let planned: Vec<&Comparison> = summary.comparisons.iter().filter(|c| c.planned).collect();
    let undecided: Vec<&Comparison> =
        planned.iter().copied().filter(|c| matches!(c.verdict, Verdict::Undecided | Verdict::TooFew)).collect();
    let left_out = left_out(artifacts);
    let (said, goes_on) = match (undecided.is_empty(), left_out.as_deref()) {
        (true, None) if planned.is_empty() => return ("Nothing was left out.".into(), None),
        (true, None) => return ("All planned comparisons are decided, and nothing was left out.".into(), None),
        (true, Some(arms)) => (format!("Not run for lack of time: {arms}"), "a new run with time for all arms"),
        (false, None) => (still_open(&undecided, planned.len()), "to halve the intervals"),
        (false, Some(arms)) => (
            format!("{}; not run for lack of time: {arms}", still_open(&undecided, planned.len())),
            "a new run with time for all arms",
        ),
    };
    let repetitions = if !undecided.is_empty() { summary.repetitions * REPETITIONS_FOR_HALF } else { summary.repetitions };
    let command = match left_out {
        None => self::goes_on(artifacts, repetitions),
        // A run that goes on has the arms that it had.
        Some(_) => {
            let again = || command::with_flag(&artifacts.run, "--repetitions", &repetitions.to_string());
            command::with_time_for(artifacts, artifacts.run.arms.len() + missing(artifacts).len()).or_else(again)
        }
    };
    match command {
        Some(command) => (format!("{said}; {goes_on}:"), Some(command)),
        None => (format!("{said}."), None),
    }
}

/// `Undecided: short TTFT p95 and ITL p99 of dual_pool against shared_tuned`, and of many how many.
fn still_open(undecided: &[&Comparison], planned: usize) -> String {
    let pair = |c: &Comparison| (c.candidate.clone(), c.baseline.clone());
    match undecided {
        [first, rest @ ..] if rest.iter().all(|c| pair(c) == pair(first)) => {
            let metrics: Vec<String> = undecided.iter().map(|c| label(&c.metric)).collect();
            let metrics: Vec<&str> = metrics.iter().map(String::as_str).collect();
            format!("Undecided: {} of {} against {}", listed(&metrics), first.candidate, first.baseline)
        }
        _ => format!("Undecided: {} of the {planned} planned comparisons", undecided.len()),
    }
}

/// The command that measures on until there are so many repetitions; where the run cannot go on, the one that makes it again with so many.
fn goes_on(artifacts: &Artifacts, repetitions: u32) -> Option<String> {
    let again = || command::with_flag(&artifacts.run, "--repetitions", &repetitions.to_string());
    command::resumed(artifacts, repetitions).or_else(again)
}

/// The arms that were asked for and did not run, in words; none where all did.
fn left_out(artifacts: &Artifacts) -> Option<String> {
    let missing = missing(artifacts);
    (!missing.is_empty()).then(|| listed(&missing))
}

fn missing(artifacts: &Artifacts) -> Vec<&str> {
    let asked = artifacts.run.settings.pointer("/run/arms").and_then(|arms| arms.as_array());
    let asked = asked.into_iter().flatten().filter_map(|arm| arm.as_str()).filter(|arm| KnownArm::find(arm).is_ok());
    let merged = |name: &str| artifacts.run.stands_for.values().flatten().any(|arm| arm == name);
    let ran = |name: &str| artifacts.run.arms.iter().any(|arm| arm.name == name) || merged(name);
    // The arms of a workload of its own are policies.
    asked.filter(|arm| artifacts.run.workload.is_none() && !ran(arm)).collect()
}

fn shares(candidates: &[&Arm]) -> String {
    let shares: Vec<String> = candidates.iter().map(|a| format!("{} {}%", a.name, percent(share(a)))).collect();
    format!("Shares within objectives so far: {}.", shares.join(", "))
}

fn none_serves(artifacts: &Artifacts, candidates: &[&Arm]) -> Conclusion {
    let load = offered_load(artifacts).map(|load| (load * 0.7 * 20.0).round() / 20.0).filter(|load| *load > 0.0);
    let command = load.and_then(|load| command::with_flag(&artifacts.run, "--load", &load.to_string()));
    let less = "Offer less (--load), ask for less (--itl-ms, --ttft-short-ms, --ttft-long-ms), or add engines";
    let shown = "the report's objective map shows what can be had";
    Conclusion {
        sentences: vec![
            "No recommendation: no arm keeps half of its requests within the objectives.".into(),
            shares(candidates),
            format!("{less}; {shown}{}", if command.is_some() { "; for example:" } else { "." }),
        ],
        command,
    }
}

fn same_tokens(summary: &Summary) -> String {
    let (same, compared) = summary.identical_requests.values().fold((0, 0), |(s, c), i| (s + i.same, c + i.compared));
    match compared {
        0 => "Output tokens were not compared.".into(),
        _ if same == compared => format!("All {} have the output tokens of the reference arm.", count(compared.into(), "request")),
        _ => format!("{same} of {} have the output tokens of the reference arm.", count(compared.into(), "request")),
    }
}

/// For a sentence in the midst of another.
fn lower(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn summary(artifacts: &mut Artifacts) -> &mut Summary {
        artifacts.summary.as_mut().unwrap()
    }

    fn said(artifacts: &Artifacts) -> String {
        conclude(artifacts).sentences.join("\n")
    }

    #[track_caller]
    fn says(artifacts: &Artifacts, expected: &[&str]) {
        let said = said(artifacts);
        assert!(said.lines().count() <= 5, "{said}");
        for words in expected {
            assert!(said.contains(words), "`{words}` is not in:\n{said}");
        }
    }

    /// Sets the shares of all arms, and what is shown of them wherever two are compared.
    fn shares(artifacts: &mut Artifacts, shares: &[(&str, f64)], half_width: f64) {
        let summary = summary(artifacts);
        let of = |name: &str| shares.iter().find(|(arm, _)| name.starts_with(arm)).unwrap().1;
        summary.arms.iter_mut().for_each(|arm| arm.goodput_share = Some(of(&arm.name)));
        for c in summary.comparisons.iter_mut().filter(|c| c.metric == "goodput_share") {
            let apart = of(&c.candidate) - of(&c.baseline);
            (c.difference, c.ci_low, c.ci_high) = (Some(apart), Some(apart - half_width), Some(apart + half_width));
            c.verdict = match apart {
                _ if apart > half_width => Verdict::Better,
                _ if apart < -half_width => Verdict::Worse,
                _ => Verdict::Undecided,
            };
        }
    }

    const ALIKE: [(&str, f64); 5] =
        [("shared_round_robin", 0.88), ("shared_tuned", 0.9), ("dedicated", 0.6), ("dual_pool", 0.91), ("auto", 0.92)];

    #[test]
    fn what_is_undecided_is_said_with_its_interval_whatever_the_verdict() {
        let mut artifacts = fixture::by_default();
        shares(&mut artifacts, &ALIKE, 0.05);
        says(
            &artifacts,
            &[
                "Serve with shared_round_robin (every engine prefills and decodes, requests in turn): no arm is shown to keep more requests \
                 within the objectives, and it is the simplest.",
                "It keeps 88.0% of its requests within the objectives; whether auto keeps more is undecided: +4.0 points \
             (95% interval -1.0 to +9.0, 9 repetitions).",
                "planned comparisons; to halve the intervals:",
            ],
        );
        let command = conclude(&artifacts).command.unwrap();
        assert!(command.starts_with("dualpool run --resume run --budget "), "{command}");
        for c in &mut summary(&mut artifacts).comparisons {
            c.verdict = Verdict::Equivalent;
        }
        says(
            &artifacts,
            &[
                "auto is as good, within 3 points: +4.0 points (95% interval -1.0 to +9.0, 9 repetitions).",
                "It costs nothing that was measured",
                "All planned comparisons are decided, and nothing was left out.",
            ],
        );
        assert_eq!(conclude(&artifacts).command, None);
    }

    #[test]
    fn a_price_is_named_once_for_a_figure_and_against_the_best_arm() {
        let mut artifacts = fixture::by_default();
        shares(
            &mut artifacts,
            &[("shared_round_robin", 0.5), ("shared_tuned", 0.7), ("dedicated", 0.6), ("dual_pool", 0.98), ("auto", 0.9)],
            0.02,
        );
        says(
            &artifacts,
            &[
                "Serve with dual_pool (long prompts prefill in one pool",
                "stay): it keeps the most requests within the objectives.",
                "auto is shown to keep fewer: -8.0 points",
            ],
        );
        let said = said(&artifacts);
        assert!(
            said.contains("What dual_pool costs: long TTFT p95 1.45x that of shared_tuned (95% interval 1.28 to 1.63)"),
            "{said}"
        );
        assert_eq!(said.matches("long TTFT").count(), 1, "{said}");
    }

    #[test]
    fn two_names_of_one_arrangement_are_one_choice() {
        let mut artifacts = fixture::by_default();
        shares(
            &mut artifacts,
            &[("shared_round_robin", 0.6), ("shared_tuned", 0.7), ("dedicated", 0.6), ("dual_pool", 0.95), ("auto", 0.99)],
            0.02,
        );
        let dual = artifacts.run.arms.iter().find(|arm| arm.name == "dual_pool").unwrap().clone();
        let twin = artifacts.run.arms.iter_mut().find(|arm| arm.name == "auto").unwrap();
        *twin = dualpool_types::Arrangement { name: twin.name.clone(), ..dual };
        // Chance has put the twin far ahead: it is the same all the same, and nothing else is said of it.
        says(
            &artifacts,
            &["Serve with dual_pool, the same arrangement as auto (long prompts", "shared_tuned is shown to keep fewer"],
        );
        let recommended = conclude(&artifacts).sentences[..4].join(" ");
        assert_eq!(recommended.matches("auto").count(), 1, "{recommended}");
    }

    #[test]
    fn where_every_arm_keeps_all_a_harder_load_is_named() {
        let mut artifacts = fixture::by_default();
        shares(&mut artifacts, &ALIKE.map(|(arm, _)| (arm, 0.995)), 0.01);
        says(&artifacts, &["All arms keep over 99% here, so this load does not tell them apart: try a higher load (--load 0.85)"]);
        let shares = [("auto".to_string(), 0.91), ("dual_pool".to_string(), 0.99)];
        artifacts.run.parts_at = Some(dualpool_types::artifact::PartsAt { load: 0.9, shares: shares.into() });
        says(&artifacts, &["at 90 % load a simulation, not a measurement, has auto 91.0%, dual_pool 99.0%: see with --load 0.9."]);
        (artifacts.run.saturation_rps, artifacts.run.parts_at) = (None, None);
        says(&artifacts, &["does not tell them apart: try tighter objectives (--itl-ms, --ttft-short-ms)"]);
    }

    #[test]
    fn a_run_that_allows_no_recommendation_says_why_and_what_to_do() {
        let mut artifacts = fixture::by_default();
        shares(&mut artifacts, &ALIKE.map(|(arm, share)| (arm, share / 2.0)), 0.01);
        says(
            &artifacts,
            &["No recommendation: no arm keeps half of its requests", "auto 46.0%", "Offer less (--load)", "for example:"],
        );
        assert_eq!(conclude(&artifacts).command.unwrap(), "dualpool run dual_pool --mix balanced --load 0.5");
        summary(&mut artifacts).repetitions = 2;
        says(&artifacts, &["No recommendation: 2 repetitions per arm decide nothing; a verdict takes 6 at least."]);
        assert!(conclude(&artifacts).command.unwrap().starts_with("dualpool run --resume run --budget "));
        summary(&mut artifacts).repetitions = 0;
        assert_eq!(conclude(&artifacts).command.unwrap(), "dualpool run dual_pool --mix balanced --repetitions 6");
        summary(&mut artifacts).exact = true;
        says(
            &artifacts,
            &["No recommendation: an exact run compares tokens, not speed", "of 1620 requests have the output tokens"],
        );
        artifacts.summary = None;
        says(&artifacts, &["No recommendation: the run is not finished, or it was stopped"]);
    }

    #[test]
    fn arms_that_were_asked_for_and_did_not_run_are_named() {
        let mut artifacts = fixture::by_default();
        artifacts.run.settings = serde_json::json!({"run": {"arms": ["shared_tuned", "dual_pool", "best_found"]}});
        says(&artifacts, &["against shared_tuned; not run for lack of time: best_found; a new run with time for all arms:"]);
        artifacts.run.stands_for = [("dual_pool".to_string(), vec!["best_found".to_string()])].into();
        says(&artifacts, &["Serve with dual_pool, the same arrangement as best_found (", "; to halve the intervals:"]);
        let arms = &mut summary(&mut artifacts).arms;
        arms.iter_mut().find(|arm| arm.name == "dedicated").unwrap().overloaded = Some(true);
        says(&artifacts, &["9 repetitions); overloaded, so the longer the worse: dedicated."]);
    }
}
