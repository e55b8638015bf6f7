//! The sums as tables: one with a column per arm, then one per arm and policy with a row per term.

use std::collections::{BTreeMap, BTreeSet};

use dualpool_types::PolicyKind;

use super::Explained;
use super::evidence::{SCORE, Weights};
use super::moments::Moments;
use super::tally::{Arranged, Policy, Tally, Term};
use crate::grid::{aligned, bare};
use crate::words::{NOT_MEASURED, count, figure, percent};

const LEGEND: &str = "\
least loaded: by the policy's own figure of load. cached: in the prefix cache of the first engine of each
request; believed: what the router took it to be. n/m: not measured, not noted, or none of it.
";

const TERMS_LEGEND: &str = "
chosen, best other: mean and standard deviation over the placements that had a choice; of `score` the
lowest wins. decided: how often the term spoke most for the chosen engine against the best of the others.
";

/// A figure of a term: three digits, and no zero with a sign.
pub(super) fn term(value: f64) -> String {
    figure(value + 0.0)
}

/// The report as text.
pub fn table(explained: &Explained) -> String {
    let mut out = explained.workload.as_ref().map_or(String::new(), |name| format!("== {name} ==\n\n"));
    explained.notes.iter().for_each(|note| out += &format!("{note}\n"));
    out += &arms(&explained.arms);
    out += LEGEND;
    let weights = Weights(explained.weights.as_ref());
    let mut has_terms = false;
    for (arm, tally) in &explained.arms {
        for (name, policy) in tally.policies.iter().filter(|(_, policy)| policy.only_one + policy.turns < policy.placements) {
            out += &format!("\n{arm}, policy {name}: {}\n{}", count(policy.placements, "placement"), terms(name, policy, weights));
            has_terms = true;
        }
    }
    if has_terms {
        out += TERMS_LEGEND;
    }
    harmless(&out)
}

/// Names come from files, and none of them may steer the terminal.
pub(super) fn harmless(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

fn arms(arms: &[(String, Tally)]) -> String {
    let mut table = bare();
    table.set_header(std::iter::once("").chain(arms.iter().map(|(arm, _)| arm.as_str())));
    for (name, cells) in rows(arms) {
        table.add_row(std::iter::once(name).chain(cells.into_iter().map(|cell| cell.unwrap_or(NOT_MEASURED.to_string()))));
    }
    aligned(table)
}

/// Rows that have something to say of any arm.
fn rows(arms: &[(String, Tally)]) -> Vec<(String, Vec<Option<String>>)> {
    let mut rows = Vec::new();
    let mut row = |name: String, read: &dyn Fn(&Tally) -> Option<String>| {
        let cells: Vec<Option<String>> = arms.iter().map(|(_, tally)| read(tally)).collect();
        if cells.iter().any(Option::is_some) {
            rows.push((name, cells));
        }
    };
    row("placements".into(), &|tally| some(tally.placements));
    for engine in keys(arms, |tally| &tally.engines) {
        row(format!("on {engine}, % of them"), &|tally| {
            let placed = tally.engines.get(&engine).copied().unwrap_or(0);
            share(placed, tally.placements).map(|share| format!("{placed} ({share})"))
        });
    }
    row("that only prefill there".into(), &|tally| some(tally.prefill_only));
    row("on the least loaded engine, %".into(), &|tally| {
        let (compared, least) = tally.least_loaded();
        share(least, compared)
    });
    row("cached there, % of prompt tokens".into(), &|tally| share(tally.cached_tokens, tally.prompt_tokens));
    // Most policies do not ask what is cached, and nothing believed is then nothing known.
    row("believed to be, %".into(), &|tally| {
        share(tally.believed_tokens, tally.placed_tokens).filter(|_| tally.believed_tokens > 0)
    });
    for reason in keys(arms, |tally| &tally.rejected) {
        row(format!("rejected: {reason}"), &|tally| Some(tally.rejected.get(&reason).unwrap_or(&0).to_string()));
    }
    for error in keys(arms, |tally| &tally.failed) {
        row(format!("failed: {error}"), &|tally| Some(tally.failed.get(&error).unwrap_or(&0).to_string()));
    }
    row("moved while decoding: it saves time".into(), &|tally| some(tally.moved.saves_time));
    row("moved while decoding: a drain".into(), &|tally| some(tally.moved.drain));
    row("their tokens of KV".into(), &|tally| some(tally.moved.tokens));
    row("computed again instead".into(), &|tally| some(tally.moved.computed_again));
    row("their downtime p50/p95/p99 ms".into(), &|tally| {
        let downtime = tally.downtime.summary();
        Some([downtime.p50?, downtime.p95?, downtime.p99?].map(figure).join("/"))
    });
    row("engines drained".into(), &|tally| some(tally.drained));
    for change in keys(arms, |tally| &tally.role_changes) {
        let (engine, from, to) = change;
        row(format!("{engine} from {} to {}", from.name(), to.name()), &|tally| {
            tally.role_changes.get(&change).map(|times| format!("{times} x"))
        });
    }
    for name in keys(arms, |tally| &tally.arrangements) {
        row(format!("auto chose {name}, share within objectives forecast"), &|tally| tally.arrangements.get(&name).map(arranged));
    }
    rows
}

/// What any arm has one of, each once and in order.
fn keys<K: Ord + Clone, V>(arms: &[(String, Tally)], of: impl Fn(&Tally) -> &BTreeMap<K, V>) -> BTreeSet<K> {
    arms.iter().flat_map(|(_, tally)| of(tally).keys().cloned()).collect()
}

/// None of it in any arm is not worth a row.
fn some(times: u64) -> Option<String> {
    (times > 0).then(|| times.to_string())
}

fn share(part: u64, whole: u64) -> Option<String> {
    (whole > 0).then(|| percent(part as f64 / whole as f64))
}

/// The first choice comes before there are requests to forecast with.
fn arranged(arranged: &Arranged) -> String {
    let times = format!("{} x", arranged.times);
    match (arranged.forecast_before.mean(), arranged.forecast.mean()) {
        (Some(before), Some(after)) => format!("{times}, {} to {}", percent(before), percent(after)),
        _ => format!("{times}, before any forecast"),
    }
}

/// The score first, then what it is made of.
fn terms(name: &str, policy: &Policy, weights: Weights<'_>) -> String {
    let kind = PolicyKind::ALL.into_iter().find(|kind| kind.name() == name);
    let mut table = bare();
    table.set_header(["", "weight", "chosen", "best other", "difference", "decided", "%"]);
    for (name, of) in std::iter::once((SCORE, &policy.score)).chain(policy.terms.iter().map(|(name, of)| (name.as_str(), of))) {
        let weight =
            kind.filter(|_| name != SCORE).and_then(|kind| weights.of(kind, name)).map_or(String::new(), |weight| term(-weight));
        table.add_row([name.to_string(), weight].into_iter().chain(figures(of)).chain(decided(of.decided, policy)));
    }
    let others = [
        ("its turn", policy.turns),
        ("equal: turns or devices", policy.equal),
        ("not by score: a rule or a draw", policy.not_by_score),
        ("no other engine", policy.only_one),
        ("not known: no weights", policy.unknown),
    ];
    for (name, times) in others.into_iter().filter(|(_, times)| *times > 0) {
        let blank = std::iter::repeat_n(String::new(), 4);
        table.add_row(std::iter::once(name.to_string()).chain(blank).chain(decided(times, policy)));
    }
    aligned(table)
}

fn figures(of: &Term) -> [String; 3] {
    let text = |moments: &Moments| match (moments.mean(), moments.spread()) {
        (Some(mean), Some(spread)) => format!("{} ± {}", term(mean), term(spread)),
        (Some(mean), None) => term(mean),
        (None, _) => NOT_MEASURED.to_string(),
    };
    [&of.chosen, &of.other, &of.higher].map(text)
}

fn decided(times: u64, policy: &Policy) -> [String; 2] {
    [times.to_string(), share(times, policy.placements).unwrap_or_default()]
}
