//! What must hold after any simulation, whatever went wrong in it.

use std::collections::HashMap;

use thiserror::Error;

use dualpool_host::{Entry, Fold, Requests, Run};
use dualpool_model::text_after;
use dualpool_router::Action;
use dualpool_types::records::{Outcome, RequestRecord};
use dualpool_types::{FinishReason, Micros, PREFILL_TOKENS_MIN, RejectReason, Request, RequestError, RequestId, Time, TokenId};

use super::scenario::{LEASE_NEVER_MS, Scenario};
use crate::Totals;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Violation {
    #[error("request {index} ended {times} times")]
    Ends { index: u32, times: usize },
    #[error("request {index} has other tokens than its prompt gives: {given} tokens, equal up to the {equal}th")]
    Text { index: u32, given: usize, equal: usize },
    #[error("request {index} is done with {given} tokens of {expected}")]
    Short { index: u32, given: usize, expected: usize },
    #[error("request {index} failed though nothing went wrong that explains it: {error}")]
    Unexplained { index: u32, error: RequestError },
    #[error("request {index} was given up after {legs} legs while an engine lived; router.resumes_max is {resumes_max}")]
    Lost { index: u32, legs: usize, resumes_max: u32 },
    #[error("request {index} was to be refused, and was not")]
    NotRefused { index: u32 },
    #[error("{blocks} blocks are still in use when all requests are over")]
    Blocks { blocks: u64 },
    #[error("{leases} leases ran out that outlast everything: the router never gave the blocks back")]
    Leases { leases: u64 },
    #[error("the router counts {in_flight} requests in flight when all are over")]
    Unsettled { in_flight: u64 },
    #[error("{in_flight} requests were in flight at once; router.max_in_flight is {max}")]
    InFlight { in_flight: u64, max: u32 },
    #[error("request {index} had {legs} legs, over the {max} that its resumes explain")]
    Legs { index: u32, legs: usize, max: usize },
    #[error("request {index} took {took}; all that came before its end takes the slowest engine {bound} at most")]
    Starved { index: u32, took: Micros, bound: Micros },
    #[error("the same seed gave another simulation")]
    NotRepeatable,
}

/// Judges a simulation by its journal.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    requests: Requests,
    run: Run,
    /// In the order of their ends.
    pub records: Vec<RequestRecord>,
    /// How often the router ended each request.
    ends: HashMap<RequestId, usize>,
}

impl Fold for Verdict {
    fn entry(&mut self, at: Time, entry: &Entry<'_>) {
        self.records.extend(self.requests.entry(at, entry, &self.run));
        if let Entry::Action(Action::Finish { request, .. }, _) = entry {
            *self.ends.entry(*request).or_default() += 1;
        }
    }
}

impl Verdict {
    /// What must not be, in a simulation of this scenario that is over.
    pub(super) fn violations(&self, scenario: &Scenario, totals: &Totals) -> Vec<Violation> {
        let mut found = Vec::new();
        for index in 0..scenario.requests.len() as u32 {
            let times = self.ends.get(&RequestId(index.into())).copied().unwrap_or(0);
            if times != 1 {
                found.push(Violation::Ends { index, times });
            }
        }
        found.extend(of_records(scenario, &self.records, totals));
        found
    }
}

fn of_records(scenario: &Scenario, records: &[RequestRecord], totals: &Totals) -> Vec<Violation> {
    let mut found = Vec::new();
    let worst = Worst::of(scenario);
    for record in records {
        let Some((_, request)) = scenario.requests.get(record.index as usize) else { continue };
        found.extend(text(scenario, record, request));
        found.extend(outcome(scenario, record, request));
        found.extend(lost(scenario, record, totals));
        found.extend(legs(scenario, record));
        found.extend(worst.starved(scenario, record));
    }
    if totals.blocks_leaked > 0 {
        found.push(Violation::Blocks { blocks: totals.blocks_leaked });
    }
    if scenario.faults.lease_ms == LEASE_NEVER_MS && totals.leases_expired > 0 {
        found.push(Violation::Leases { leases: totals.leases_expired });
    }
    if totals.unsettled > 0 {
        found.push(Violation::Unsettled { in_flight: totals.unsettled });
    }
    let (in_flight, max) = (admitted_at_once(records), scenario.router.max_in_flight);
    if in_flight > u64::from(max) {
        found.push(Violation::InFlight { in_flight, max });
    }
    found
}

/// What the engines must have said: their text follows from the prompt alone, wherever and how often it was computed or moved.
fn text(scenario: &Scenario, record: &RequestRecord, request: &Request) -> Option<Violation> {
    let vocab_size = scenario.engines.first()?.vocab_size;
    let (expected, reason) = text_after(&request.prompt, request.max_tokens, request.ignore_eos, vocab_size);
    let (index, given) = (record.index, record.tokens.len());
    let equal =
        expected.iter().zip(&record.tokens).take_while(|(expected, token): &(&TokenId, &TokenId)| expected == token).count();
    if equal < given {
        return Some(Violation::Text { index, given, equal });
    }
    let ends = reason == FinishReason::Stop || expected.len() == request.max_tokens as usize;
    let short = record.outcome == Outcome::Done && (!ends || given < expected.len());
    short.then_some(Violation::Short { index, given, expected: expected.len() })
}

/// A request fails only for a reason.
fn outcome(scenario: &Scenario, record: &RequestRecord, request: &Request) -> Option<Violation> {
    let shortest = scenario.engines.iter().map(|engine| engine.max_model_len).min().unwrap_or(0);
    let (prompt_tokens, max_tokens) = (request.prompt_tokens(), request.max_tokens);
    let hopeless = prompt_tokens == 0 || max_tokens == 0;
    let death = &scenario.faults.engine_death;
    let deaths = !death.at.is_empty() || death.per_hour > 0.0;
    let explained = match &record.outcome {
        Outcome::Done if hopeless => return Some(Violation::NotRefused { index: record.index }),
        Outcome::Done => return None,
        Outcome::Failed { error } => match error {
            RequestError::Rejected { reason } => match reason {
                RejectReason::NoEngine => deaths,
                RejectReason::EmptyPrompt | RejectReason::NoOutput => hopeless,
                RejectReason::TooLong { .. } => prompt_tokens + max_tokens > shortest,
                RejectReason::ShuttingDown => false,
                // The load decides; what it may be is checked for all requests together.
                _ => true,
            },
            RequestError::EngineDied { .. } => deaths,
            RequestError::Cancelled { .. } => scenario.faults.clients_leave.share > 0.0,
            RequestError::Engine { .. } | RequestError::ShutDown { .. } => false,
        },
    };
    match &record.outcome {
        Outcome::Failed { error } if !explained => Some(Violation::Unexplained { index: record.index, error: error.clone() }),
        _ => None,
    }
}

/// While an engine lives, a request that was admitted ends by deaths only when it was resumed as often as it may be.
fn lost(scenario: &Scenario, record: &RequestRecord, totals: &Totals) -> Option<Violation> {
    let died = matches!(record.outcome, Outcome::Failed { error: RequestError::EngineDied { .. } });
    let survivor = totals.engines.iter().any(|engine| engine.died.is_none());
    let (legs, resumes_max) = (record.legs.len(), scenario.router.resumes_max);
    (died && survivor && legs <= resumes_max as usize).then_some(Violation::Lost { index: record.index, legs, resumes_max })
}

/// A request changes engines when its prompt is computed, when its engine dies, and when it is moved while it decodes.
fn legs_max(scenario: &Scenario) -> usize {
    let migration = &scenario.router.migration;
    2 * (scenario.router.resumes_max as usize + 1) + if migration.enabled { migration.per_request_max as usize } else { 0 }
}

fn legs(scenario: &Scenario, record: &RequestRecord) -> Option<Violation> {
    let max = legs_max(scenario);
    let legs = record.legs.len();
    (legs > max).then_some(Violation::Legs { index: record.index, legs, max })
}

/// Requests that were with engines at the same time, at most.
fn admitted_at_once(records: &[RequestRecord]) -> u64 {
    let mut changes: Vec<(Micros, i64)> =
        records.iter().filter_map(|record| Some([(record.admitted_us?, 1), (record.ended_us, -1)])).flatten().collect();
    // Of what happens at the same time, ends come first: the order within a moment is not recorded.
    changes.sort_unstable();
    let mut count = 0;
    let most = changes.into_iter().map(|(_, change)| {
        count += change;
        count
    });
    most.max().unwrap_or(0).max(0) as u64
}

/// How long things may take at worst: everything that arrived, one after the other, on the slowest engine.
struct Worst {
    /// Per request of the scenario.
    alone_us: Vec<f64>,
    /// What faults add to that.
    extra_us: f64,
}

impl Worst {
    fn of(scenario: &Scenario) -> Worst {
        let alone = |request: &Request| {
            let per_engine = scenario.engines.iter().map(|engine| {
                let (prompt, outputs) = (request.prompt_tokens(), request.max_tokens);
                let timing = &engine.timing;
                // Each step takes some of the prompt, however many others are in it.
                let steps = f64::from(prompt.div_ceil(PREFILL_TOKENS_MIN) + outputs);
                let copy = timing.copy(prompt + outputs).0 as f64;
                let context = timing.context_us * f64::from(prompt + outputs) * f64::from(outputs);
                let tokens = timing.prefill_us * f64::from(prompt + outputs) + timing.decode_us * f64::from(outputs);
                // Steps are up to a tenth longer than the model says.
                1.1 * (steps * (timing.step_us + timing.decode_step_us) + tokens + context) + copy
            });
            // Again after each death of its engine, and where KV that was to be copied is computed again.
            per_engine.fold(0.0, f64::max) * legs_max(scenario) as f64
        };
        let faults = &scenario.faults;
        let deaths = scenario.engines.len() as u64;
        let slow: f64 = faults.slow_link.iter().map(|link| link.factor).product();
        let copies: u64 = scenario.engines.iter().map(|engine| engine.timing.copy(engine.max_model_len).0).max().unwrap_or(0);
        let legs = (scenario.requests.len() * legs_max(scenario)) as f64;
        let held = if faults.lost_messages == Default::default() { 0.0 } else { faults.lease_ms as f64 * 1_000.0 * legs };
        let extra_us = (deaths * faults.engine_death.noticed_after_ms * 1_000) as f64
            + (slow - 1.0) * copies as f64 * legs
            + held
            + (faults.late_outputs_ms * 1_000) as f64 * legs
            + (scenario.router.tick_ms * 1_000) as f64;
        Worst { alone_us: scenario.requests.iter().map(|(_, request)| alone(request)).collect(), extra_us }
    }

    fn starved(&self, scenario: &Scenario, record: &RequestRecord) -> Option<Violation> {
        let before = scenario.requests.iter().zip(&self.alone_us).filter(|((at, _), _)| at.0 <= record.ended_us.0);
        let bound = Micros((before.map(|(_, alone)| alone).sum::<f64>() + self.extra_us) as u64);
        let took = record.ended_us - record.arrived_us;
        (took > bound).then_some(Violation::Starved { index: record.index, took, bound })
    }
}
