//! Which arm to serve with: the rule, without words.
//!
//! 1. The goal is the share of requests within the user's objectives. Arms that failed requests are not candidates while another arm failed none. A
//!    control is never one. Of arms with one arrangement one is a candidate: the one of the planned comparisons, else the first. An exact run says
//!    nothing of speed, so nothing is recommended from it.
//! 2. The candidate with the highest share leads, and is compared with every other one by the same rule: the verdict on their shares. Those that it
//!    is not shown to beat stay in the choice, be they equivalent or undecided; where the run holds no such comparison, those stay whose shares
//!    are at most `TIE_SHARE` apart.
//! 3. Of those that stay, the simplest is recommended: one pool before two, no KV moves before KV moves, default scheduler
//!    settings before tuned ones. A split has to earn its place.

use std::cmp::Reverse;

use dualpool_types::Tuning;
use dualpool_types::artifact::{Summary, Verdict};

use super::arms::Arm;
use super::metric;
use super::objective_map::TIE_SHARE;
use super::verdicts::{Seen, seen};

/// An arrangement that keeps fewer of its requests within objectives is none to serve with.
const SERVED_MIN: f64 = 0.5;

/// A difference between shares within this much does not matter.
pub const MARGIN_SHARE: f64 = 0.03;

/// Fewer repetitions than this decide nothing.
pub const REPETITIONS_MIN: u32 = 6;

/// What a run with figures allows to say.
pub(crate) enum Decision<'a> {
    /// Its requests were alone on the engines.
    Exact,
    /// No arm has a share of requests within objectives.
    NoShares,
    TooFewRepetitions(Vec<&'a Arm<'a>>),
    /// No candidate keeps half of its requests within the objectives.
    NoneServes(Vec<&'a Arm<'a>>),
    Serve(Choice<'a>),
}

pub(crate) struct Choice<'a> {
    /// What to serve with.
    pub arm: &'a Arm<'a>,
    pub leader: &'a Arm<'a>,
    /// What stays in the choice: the arm itself, the leader, and what it is not shown to beat.
    pub as_good: Vec<&'a Arm<'a>>,
    /// The arm that it is decided against: the leader, or else the best of the others, first of those that stay. None where it is alone.
    pub rival: Option<&'a Arm<'a>>,
    /// In the order of the run.
    pub candidates: Vec<&'a Arm<'a>>,
    /// Arms that failed requests while others did not.
    pub failed: Vec<&'a Arm<'a>>,
    /// Arms that are no candidates because another one has their arrangement, each with that one.
    pub repeated: Vec<(&'a Arm<'a>, &'a Arm<'a>)>,
}

pub(crate) fn decide<'a>(arms: &'a [Arm<'a>], summary: &Summary) -> Decision<'a> {
    if summary.exact {
        return Decision::Exact;
    }
    let measured: Vec<&Arm> = arms.iter().filter(|a| !a.control && a.figures.goodput_share.is_some()).collect();
    let (sound, failed): (Vec<&Arm>, Vec<&Arm>) = measured.iter().partition(|a| a.figures.errors.is_empty());
    let (sound, failed) = if sound.is_empty() { (measured, Vec::new()) } else { (sound, failed) };
    let (candidates, repeated) = once_each(&sound, summary);
    let Some(leader) = candidates.iter().copied().min_by_key(|a| Reverse(ordered(share(a)))) else { return Decision::NoShares };
    if summary.repetitions < REPETITIONS_MIN {
        return Decision::TooFewRepetitions(candidates);
    }
    if share(leader) < SERVED_MIN {
        return Decision::NoneServes(candidates);
    }
    let (as_good, beaten): (Vec<&Arm>, Vec<&Arm>) =
        candidates.iter().partition(|a| a.name == leader.name || !beats(leader, a, summary));
    // `as_good` holds the leader at least, and ties keep the order of the run.
    let arm = as_good.iter().copied().min_by_key(|a| complexity(a)).unwrap_or(leader);
    let best = |of: &[&'a Arm<'a>]| of.iter().copied().filter(|a| a.name != arm.name).min_by_key(|a| Reverse(ordered(share(a))));
    let rival = best(&as_good).or_else(|| best(&beaten));
    Decision::Serve(Choice { arm, leader, as_good, rival, candidates, failed, repeated })
}

/// The share of its requests within objectives.
pub(crate) fn share(arm: &Arm) -> f64 {
    arm.figures.goodput_share.unwrap_or(0.0)
}

/// Whether so large a share of requests within objectives is worth serving for.
pub(crate) fn serves(share: f64) -> bool {
    share >= SERVED_MIN
}

/// A share as an integer that orders like it.
fn ordered(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * 1e9) as u64
}

/// Splits off the arms whose arrangement another one has, each with that one.
fn once_each<'a>(arms: &[&'a Arm<'a>], summary: &Summary) -> (Vec<&'a Arm<'a>>, Vec<(&'a Arm<'a>, &'a Arm<'a>)>) {
    let planned = |arm: &Arm| summary.comparisons.iter().any(|c| c.planned && (c.candidate == arm.name || c.baseline == arm.name));
    let stands_for = |arm: &Arm| {
        let mut alike = arms.iter().copied().filter(|other| is_same(arm, other));
        let first = alike.clone().next();
        alike.find(|other| planned(other)).or(first)
    };
    let (mut once, mut repeated) = (Vec::new(), Vec::new());
    for arm in arms {
        match stands_for(arm) {
            Some(other) if other.name != arm.name => repeated.push((*arm, other)),
            _ => once.push(*arm),
        }
    }
    (once, repeated)
}

/// Whether both have one arrangement. One that the run does not describe is like itself alone.
fn is_same(first: &Arm, second: &Arm) -> bool {
    let both = first.arrangement.zip(second.arrangement);
    first.name == second.name || both.is_some_and(|(first, second)| first.is_same_as(second))
}

/// Whether the first arm has the larger share, as far as the run tells.
fn beats(first: &Arm, second: &Arm, summary: &Summary) -> bool {
    match of_shares(first.name, second.name, summary) {
        Some(seen) => seen.verdict == Verdict::Better,
        None => share(first) - share(second) > TIE_SHARE,
    }
}

/// How the share of the first arm compares with that of the second; none when the two were not compared.
pub(crate) fn of_shares<'a>(first: &str, second: &str, summary: &'a Summary) -> Option<Seen<'a>> {
    let mut own = summary.comparisons.iter().filter(|c| c.metric == metric::GOODPUT.key && c.verdict != Verdict::NotMeasured);
    own.find_map(|c| seen(c, first).filter(|seen| seen.against == second))
}

/// Orders arms from simple to involved. An arm the run does not describe comes last.
fn complexity(arm: &Arm) -> (u8, usize) {
    let Some(arrangement) = arm.arrangement else { return (u8::MAX, 0) };
    (arrangement.policy.plainness(), arrangement.tunings.iter().filter(|t| **t != Tuning::default()).count())
}
