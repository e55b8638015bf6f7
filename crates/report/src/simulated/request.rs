//! A line of `simulated_requests.jsonl`. A simulation may have millions of requests, so it has their figures, without tokens and times.

use schemars::JsonSchema;
use serde::Serialize;

use dualpool_types::records::{Outcome, RequestRecord};
use dualpool_types::{Class, EngineId, Micros};

use crate::measure::{longest_itl_ms, within_objectives};

/// What became of one simulated request. All times are microseconds of the model since the start of its arm.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SimulatedRequest<'a> {
    /// This is always true: the figures were computed from a model, and nothing was measured.
    pub simulated: bool,
    /// The arm that the request was served in.
    pub arm: &'a str,
    /// The place of the request in the traffic, which is its id in `decisions.jsonl` too.
    pub index: u32,
    /// Whether its prompt is short or long.
    pub class: Class,
    /// The length of its prompt in tokens.
    pub prompt_tokens: u32,
    /// How many tokens it was given.
    pub output_tokens: usize,
    /// When it arrived, in microseconds.
    pub arrived_us: Micros,
    /// The time from its arrival to its first token, in microseconds; null when it was given none.
    pub ttft_us: Option<Micros>,
    /// The longest time between two of its tokens, in microseconds; 0 with fewer than two.
    pub itl_us_max: Micros,
    /// When it ended, in microseconds.
    pub ended_us: Micros,
    /// Whether it was done within both of its objectives.
    pub within_objectives: bool,
    /// The engines it was on, in order.
    pub engines: Vec<EngineId>,
    /// How many tokens of its prompt were in the prefix cache of its first engine.
    pub cached_tokens: u32,
    /// How many KV transfers it had that copied its KV.
    pub kv_transfers: usize,
    /// How it ended.
    pub outcome: &'a Outcome,
}

impl<'a> SimulatedRequest<'a> {
    pub fn of(record: &'a RequestRecord) -> SimulatedRequest<'a> {
        SimulatedRequest {
            simulated: true,
            arm: &record.arm,
            index: record.index,
            class: record.class,
            prompt_tokens: record.prompt_tokens,
            output_tokens: record.token_us.len(),
            arrived_us: record.arrived_us,
            ttft_us: record.token_us.first().map(|&at| at - record.arrived_us),
            itl_us_max: Micros::from_ms(longest_itl_ms(record)),
            ended_us: record.ended_us,
            within_objectives: within_objectives(record),
            engines: record.legs.iter().map(|leg| leg.engine).collect(),
            cached_tokens: record.legs.first().map_or(0, |leg| leg.cached_tokens),
            kv_transfers: record.handoffs.iter().filter(|handoff| !handoff.recomputed).count(),
            outcome: &record.outcome,
        }
    }
}
