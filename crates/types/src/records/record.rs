//! The raw measurements, one JSON object per line in `requests.jsonl` and `samples.jsonl`. All times are microseconds since the
//! start of the run (one arm, one repetition) the record belongs to.

use serde::{Deserialize, Serialize};

use super::GpuSample;
use crate::{Bytes, Class, EngineId, Micros, Objectives, RequestError, RequestId, Role, TokenId};
use crate::{Turn, Wave};

/// The timeline of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The arm and the repetition this request was served in; empty and 0 outside a benchmark.
    pub arm: String,
    pub repetition: u32,
    pub id: RequestId,
    /// The request's place in the workload: equal in all arms of one repetition, whose requests are compared pair by pair.
    pub index: u32,
    pub class: Class,
    /// Its wave, and its place in a conversation, where the workload has such a thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<Wave>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    pub prompt_tokens: u32,
    pub objectives: Objectives,
    pub arrived_us: Micros,
    /// When the router admitted it; none when it was rejected.
    pub admitted_us: Option<Micros>,
    /// When each output token left dualpool. `token_us[0] - arrived_us` is the TTFT.
    pub token_us: Vec<Micros>,
    pub tokens: Vec<TokenId>,
    /// Every stay on an engine, in order.
    pub legs: Vec<LegRecord>,
    /// Every KV move between two of them.
    pub handoffs: Vec<HandoffRecord>,
    pub ended_us: Micros,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    Done,
    Failed { error: RequestError },
}

/// One stay of a request on one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LegRecord {
    pub engine: EngineId,
    /// The role the engine had when the leg was sent to it.
    pub role: Role,
    pub submitted_us: Micros,
    pub first_token_us: Option<Micros>,
    pub ended_us: Option<Micros>,
    pub output_tokens: u32,
    /// Prompt tokens taken from the prefix cache or loaded, not computed.
    pub cached_tokens: u32,
}

/// What a KV move interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandoffKind {
    /// The prompt was prefilled, and the request decodes elsewhere.
    #[default]
    Handoff,
    /// The request was decoding, and goes on doing so elsewhere. From its start to its end is what the client sees as a gap.
    LiveMigration,
}

/// One KV move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandoffRecord {
    #[serde(default)]
    pub kind: HandoffKind,
    pub from: EngineId,
    pub to: EngineId,
    /// The source leg's last output was there.
    pub started_us: Micros,
    /// How long the copy was in the mover's queue, behind others, until it started; none when it did not happen, as below.
    pub copy_wait_us: Option<Micros>,
    /// The mover's copy; none when the copy did not happen.
    pub copy_started_us: Option<Micros>,
    pub copy_us: Option<Micros>,
    /// The destination engine had computed its first token, by its own word; from then on the token was on its way here.
    #[serde(default)]
    pub computed_us: Option<Micros>,
    /// The first token of the destination leg, or of the leg that took its place, was there; none when it never came.
    pub ended_us: Option<Micros>,
    pub bytes: Bytes,
    /// Contiguous byte runs after coalescing.
    pub byte_ranges: u32,
    /// True when the blocks were not copied and the destination computed the prompt itself.
    pub recomputed: bool,
}

/// A snapshot of one engine, taken every `telemetry.sample_ms`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineSample {
    pub arm: String,
    pub repetition: u32,
    pub at_us: Micros,
    pub engine: EngineId,
    pub role: Role,
    /// Legs the router has on the engine and which have no token yet, and those which have. Queue depth is their sum.
    pub waiting: u32,
    pub running: u32,
    /// As the engine last reported them; none before its first report.
    pub kv_usage: Option<f32>,
    pub prefix_hits: Option<u64>,
    /// KV moves into this engine that succeeded, since the start of the run.
    #[serde(default)]
    pub transfers_in: u64,
}

/// A line of `samples.jsonl`. Which kind it is shows from its keys: `engine`, or `gpu`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sample {
    Engine(EngineSample),
    Gpu(Box<GpuSample>),
}
