//! What one placement rests on: the chosen engine against the best of the others, and which term made the difference.

use dualpool_router::ScoreSettings;
use dualpool_types::PolicyKind;
use dualpool_types::records::{Candidate, Placed};

/// What stands for the whole score where a policy has no terms.
pub(super) const SCORE: &str = "score";

/// The weights of policy `score`, where they are known.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a>(pub Option<&'a ScoreSettings>);

/// What made the chosen engine the one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decided<'a> {
    /// There was no other engine to choose.
    OnlyOne,
    /// This term, or the score where it has no terms that add up to it.
    By(&'a str),
    /// The policy asks for nothing else.
    Turns,
    /// Nothing that is noted: the scores are equal, and turns or devices decided.
    Equal,
    /// Another engine had the better score: a rule of the policy, a lost device, or a draw decided.
    NotByScore,
    /// A term did, but which one cannot be told without the weights.
    Unknown,
}

/// The chosen engine and the best of the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence<'a> {
    pub chosen: &'a Candidate,
    pub other: Option<&'a Candidate>,
    pub decided: Decided<'a>,
}

impl Weights<'_> {
    /// What a unit of the term adds to the score, which is better the lower it is. None for terms that scores are no sum of.
    pub(super) fn of(self, policy: PolicyKind, term: &str) -> Option<f64> {
        match policy {
            PolicyKind::Score => Some(-self.0?.weight(term)?),
            PolicyKind::PredictedLatency => Some(1.0),
            _ => None,
        }
    }

    /// None when the chosen engine is not among the candidates, which says nothing.
    pub(super) fn judge(self, placed: &Placed) -> Option<Evidence<'_>> {
        let chosen = placed.candidates.iter().find(|candidate| candidate.engine == placed.chosen)?;
        let other = placed.candidates.iter().find(|candidate| candidate.engine != placed.chosen);
        let decided = other.map_or(Decided::OnlyOne, |other| self.decided(placed.policy, chosen, other));
        Some(Evidence { chosen, other, decided })
    }

    fn decided<'a>(self, policy: PolicyKind, chosen: &'a Candidate, other: &'a Candidate) -> Decided<'a> {
        // As the router takes what it could not score.
        let score = |candidate: &Candidate| candidate.score.unwrap_or(f64::MAX);
        let gap = score(other) - score(chosen);
        match policy {
            PolicyKind::RoundRobin => Decided::Turns,
            _ if gap < 0.0 => Decided::NotByScore,
            PolicyKind::CacheAware => by_rank(chosen, other),
            _ if gap == 0.0 => Decided::Equal,
            PolicyKind::Score | PolicyKind::PredictedLatency if !chosen.terms.is_empty() => self.by_sum(policy, chosen, other),
            _ => Decided::By(SCORE),
        }
    }

    /// The term that speaks most for the chosen one, of those that the score is the sum of.
    fn by_sum<'a>(self, policy: PolicyKind, chosen: &'a Candidate, other: &Candidate) -> Decided<'a> {
        let speaks =
            |(name, &value): (&'a String, &f64)| Some((name.as_str(), self.of(policy, name)? * (other.terms.get(name)? - value)));
        let most = chosen.terms.iter().filter_map(speaks).max_by(|(_, a), (_, b)| a.total_cmp(b));
        most.map_or(Decided::Unknown, |(name, _)| Decided::By(name))
    }
}

/// `cache_aware` goes by what is cached or by demand, and between equals by requests, then by prompt tokens so far.
fn by_rank<'a>(chosen: &Candidate, other: &Candidate) -> Decided<'a> {
    let term = |candidate: &Candidate, name: &str| candidate.terms.get(name).copied();
    let differ = |name: &str| term(chosen, name) != term(other, name);
    if chosen.score != other.score {
        let by_cache = [chosen, other].iter().all(|candidate| candidate.score == term(candidate, "cached").map(|cached| -cached));
        return Decided::By(if by_cache { "cached" } else { "demand_us" });
    }
    match ["queue_depth", "prompt_tokens_sent"].into_iter().find(|name| differ(name)) {
        Some(name) => Decided::By(name),
        None => Decided::Equal,
    }
}

/// How loaded the policy took an engine to be; none where it has no figure for that.
pub(super) fn load(policy: PolicyKind, candidate: &Candidate) -> Option<f64> {
    match policy {
        PolicyKind::Score => candidate.terms.get("queue").copied(),
        PolicyKind::CacheAware => candidate.terms.get("demand_us").copied(),
        PolicyKind::LeastLoad | PolicyKind::PowerOfTwo => candidate.score,
        _ => None,
    }
}

/// Whether the request went to an engine with the least load of all candidates; none where that cannot be told.
pub(super) fn least_loaded(placed: &Placed) -> Option<bool> {
    let loads: Option<Vec<f64>> = placed.candidates.iter().map(|candidate| load(placed.policy, candidate)).collect();
    let least = loads?.into_iter().fold(f64::INFINITY, f64::min);
    let chosen = placed.candidates.iter().find(|candidate| candidate.engine == placed.chosen)?;
    Some(load(placed.policy, chosen)? <= least)
}
