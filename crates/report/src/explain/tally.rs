//! What the router did in one arm, summed up line by line.

use std::collections::BTreeMap;

use dualpool_types::records::{MigrationReason, Outcome, Placed, RouterNote};
use dualpool_types::{EngineId, RequestError, Role};

use super::evidence::{Decided, Evidence, SCORE, Weights, least_loaded};
use super::fates::Fate;
use super::moments::Moments;
use crate::simulated::{Latencies, name};

#[derive(Default)]
pub(super) struct Tally {
    pub placements: u64,
    /// Of these, on an engine that only prefills, after which the request moves.
    pub prefill_only: u64,
    pub engines: BTreeMap<EngineId, u64>,
    /// Of legs that start with their prompt, and what of it was believed to be cached where they went.
    pub placed_tokens: u64,
    pub believed_tokens: u64,
    /// Of requests that reached an engine, and what of it was cached there.
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    /// By name: under `auto` an arm has several.
    pub policies: BTreeMap<&'static str, Policy>,
    pub moved: Moves,
    pub role_changes: BTreeMap<(EngineId, Role, Role), u64>,
    pub arrangements: BTreeMap<String, Arranged>,
    pub drained: u64,
    /// By the names that the files give reasons and errors.
    pub rejected: BTreeMap<String, u64>,
    pub failed: BTreeMap<String, u64>,
    pub downtime: Latencies,
}

/// The placements of one policy.
#[derive(Debug, Default)]
pub(super) struct Policy {
    pub placements: u64,
    /// Placements of which the loads are known, and those of them that went to the least loaded engine.
    pub compared: u64,
    pub least_loaded: u64,
    pub only_one: u64,
    pub turns: u64,
    pub equal: u64,
    pub not_by_score: u64,
    pub unknown: u64,
    /// The score itself, and what it is made of.
    pub score: Term,
    pub terms: BTreeMap<String, Term>,
}

/// A term of the chosen engine, of the best other one, and how much higher it was of the chosen.
#[derive(Debug, Default)]
pub(super) struct Term {
    pub chosen: Moments,
    pub other: Moments,
    pub higher: Moments,
    pub decided: u64,
}

/// Requests that moved while they decoded.
#[derive(Debug, Default)]
pub(super) struct Moves {
    pub saves_time: u64,
    pub drain: u64,
    pub tokens: u64,
    /// Nothing was to be copied: the KV was computed again.
    pub computed_again: u64,
}

/// An arrangement that `auto` chose.
#[derive(Debug, Default)]
pub(super) struct Arranged {
    pub times: u64,
    /// Shares of requests within their objectives, as forecast when it was chosen.
    pub forecast_before: Moments,
    pub forecast: Moments,
}

impl Tally {
    pub(super) fn note(&mut self, note: &RouterNote, weights: Weights<'_>) {
        match note {
            RouterNote::Placed(placed) => self.placed(placed, weights),
            RouterNote::Migrated { tokens, why, .. } => {
                match why {
                    MigrationReason::SavesTime => self.moved.saves_time += 1,
                    MigrationReason::Drain => self.moved.drain += 1,
                }
                self.moved.tokens += u64::from(*tokens);
                self.moved.computed_again += u64::from(*tokens == 0);
            }
            RouterNote::RoleChanged { engine, from, to, .. } => {
                *self.role_changes.entry((*engine, *from, *to)).or_default() += 1;
            }
            RouterNote::Rearranged { to, forecast_from, forecast_to, .. } => {
                let arranged = entry(&mut self.arrangements, &to.name);
                arranged.times += 1;
                forecast_from.iter().for_each(|&share| arranged.forecast_before.add(share));
                forecast_to.iter().for_each(|&share| arranged.forecast.add(share));
            }
            RouterNote::Drained { .. } => self.drained += 1,
            // How admission stood says less than what became of each request, which is in `fate`.
            RouterNote::Admission(_) | RouterNote::DrainEnded { .. } => {}
        }
    }

    pub(super) fn fate(&mut self, fate: &Fate) {
        match &fate.outcome {
            Outcome::Done => {}
            Outcome::Failed { error: RequestError::Rejected { reason } } => *entry(&mut self.rejected, &name(reason)) += 1,
            Outcome::Failed { error } => *entry(&mut self.failed, &name(error)) += 1,
        }
        if let Some((prompt, cached)) = fate.cached() {
            (self.prompt_tokens, self.cached_tokens) = (self.prompt_tokens + prompt, self.cached_tokens + cached);
        }
        fate.downtimes().for_each(|downtime| self.downtime.add(downtime));
    }

    fn placed(&mut self, placed: &Placed, weights: Weights<'_>) {
        self.placements += 1;
        self.prefill_only += u64::from(placed.prefill_only);
        *self.engines.entry(placed.chosen).or_default() += 1;
        let evidence = weights.judge(placed);
        if placed.from.is_none() {
            self.placed_tokens += u64::from(placed.prompt_tokens);
            let cached = evidence.map_or(0, |evidence| evidence.chosen.cached_tokens);
            self.believed_tokens += u64::from(cached.min(placed.prompt_tokens));
        }
        let policy = self.policies.entry(placed.policy.name()).or_default();
        policy.placements += 1;
        if let Some(least) = least_loaded(placed) {
            policy.compared += 1;
            policy.least_loaded += u64::from(least);
        }
        if let Some(evidence) = evidence {
            policy.judged(&evidence);
        }
    }

    /// Placements of which the loads are known, and those of them that went to the least loaded engine.
    pub(super) fn least_loaded(&self) -> (u64, u64) {
        self.policies.values().fold((0, 0), |(all, least), policy| (all + policy.compared, least + policy.least_loaded))
    }
}

impl Policy {
    fn judged(&mut self, evidence: &Evidence<'_>) {
        match evidence.decided {
            Decided::OnlyOne => self.only_one += 1,
            Decided::Turns => self.turns += 1,
            Decided::Equal => self.equal += 1,
            Decided::NotByScore => self.not_by_score += 1,
            Decided::Unknown => self.unknown += 1,
            Decided::By(SCORE) => self.score.decided += 1,
            Decided::By(term) => entry(&mut self.terms, term).decided += 1,
        }
        let Some(other) = evidence.other else { return };
        if let (Some(chosen), Some(other)) = (evidence.chosen.score, other.score) {
            self.score.add(chosen, other);
        }
        for (name, &chosen) in &evidence.chosen.terms {
            if let Some(&other) = other.terms.get(name) {
                entry(&mut self.terms, name).add(chosen, other);
            }
        }
    }
}

impl Term {
    fn add(&mut self, chosen: f64, other: f64) {
        self.chosen.add(chosen);
        self.other.add(other);
        self.higher.add(chosen - other);
    }
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tally").field("placements", &self.placements).field("policies", &self.policies).finish_non_exhaustive()
    }
}

fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, key: &str) -> &'a mut T {
    map.entry(key.to_string()).or_default()
}
