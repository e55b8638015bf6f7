//! The raw measurements, one JSON object per line in `requests.jsonl` and `samples.jsonl`. All times are microseconds since the
//! start of the run (one arm, one repetition) the record belongs to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::GpuSample;
use crate::{Bytes, Class, EngineId, Micros, Objectives, RequestError, RequestId, Role, TokenId};
use crate::{Turn, Wave};

/// The timeline of one request. All times are microseconds since the start of the run, one arm in one repetition, that it belongs
/// to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestRecord {
    /// The arm that the request was served in; empty outside of a benchmark.
    pub arm: String,
    /// The repetition, counted from 0.
    pub repetition: u32,
    /// The id of the request, unique within the program's run.
    pub id: RequestId,
    /// The request's place in the workload: equal in all arms of one repetition, whose requests are compared pair by pair.
    pub index: u32,
    /// Whether its prompt is short or long.
    pub class: Class,
    /// Its wave, where requests come in waves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<Wave>,
    /// Its place in a conversation, where the workload has such a thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    /// The length of its prompt in tokens.
    pub prompt_tokens: u32,
    /// What it asks for.
    pub objectives: Objectives,
    /// Its planned arrival, in microseconds.
    pub arrived_us: Micros,
    /// When the router admitted it, in microseconds; null when it was rejected.
    pub admitted_us: Option<Micros>,
    /// When each output token left dualpool, in microseconds. `token_us[0] - arrived_us` is the TTFT.
    pub token_us: Vec<Micros>,
    /// The output tokens, by their ids in the model's vocabulary.
    pub tokens: Vec<TokenId>,
    /// Every stay on an engine, in order.
    pub legs: Vec<LegRecord>,
    /// Every KV transfer between two of them: hand-offs of prompts and live migrations, by `kind`.
    pub handoffs: Vec<HandoffRecord>,
    /// When it ended, in microseconds.
    pub ended_us: Micros,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    /// It was given all its tokens.
    Done,
    /// It ended with an error.
    Failed {
        /// The error.
        error: RequestError,
    },
}

/// One stay of a request on one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LegRecord {
    /// The engine.
    pub engine: EngineId,
    /// The role that the engine had when the leg was sent to it.
    pub role: Role,
    /// When the leg was sent to the engine, in microseconds.
    pub submitted_us: Micros,
    /// When its first token came, in microseconds; null when none did.
    pub first_token_us: Option<Micros>,
    /// When it ended, in microseconds; null when it did not.
    pub ended_us: Option<Micros>,
    /// The number of its output tokens.
    pub output_tokens: u32,
    /// Prompt tokens that were taken from the prefix cache or fetched, and not computed.
    pub cached_tokens: u32,
}

/// What a KV transfer interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HandoffKind {
    /// The prompt was computed, and the request decodes elsewhere.
    #[default]
    Handoff,
    /// The request was decoding, and goes on doing so elsewhere. From its start to its end is what the client sees as a gap.
    LiveMigration,
}

/// One KV transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HandoffRecord {
    /// What it interrupts.
    #[serde(default)]
    pub kind: HandoffKind,
    /// The source engine.
    pub from: EngineId,
    /// The destination engine.
    pub to: EngineId,
    /// When the last output of the source leg came, in microseconds.
    pub started_us: Micros,
    /// Of the time until the copy began, how long it was in the mover's queue behind others, in microseconds; null when nothing was
    /// copied.
    pub copy_wait_us: Option<Micros>,
    /// When the mover began to copy, in microseconds; null when nothing was copied.
    pub copy_started_us: Option<Micros>,
    /// How long the copy took, in microseconds; null when nothing was copied.
    pub copy_us: Option<Micros>,
    /// When the destination engine had computed its first token, as it reports, in microseconds; from then on the token was on its
    /// way here.
    #[serde(default)]
    pub computed_us: Option<Micros>,
    /// When the first token of the destination leg, or of the leg that took its place, came, in microseconds; null when none did.
    pub ended_us: Option<Micros>,
    /// The bytes that were copied.
    pub bytes: Bytes,
    /// The contiguous byte ranges that were copied, neighbours merged.
    pub byte_ranges: u32,
    /// True when the KV was not copied and the destination engine computed the prompt itself.
    pub recomputed: bool,
}

/// A snapshot of one engine, taken every `telemetry.sample_ms`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EngineSample {
    /// The arm under measurement.
    pub arm: String,
    /// The repetition, counted from 0.
    pub repetition: u32,
    /// When the sample was taken, in microseconds since the start of the run.
    pub at_us: Micros,
    /// The engine.
    pub engine: EngineId,
    /// The role of the engine.
    pub role: Role,
    /// Legs on the engine that have no token yet. The queue depth is the sum of `waiting` and `running`.
    pub waiting: u32,
    /// Legs on the engine that have tokens.
    pub running: u32,
    /// The share of its KV blocks that is in use, 0 to 1, as the engine last reported it; null before its first report.
    pub kv_usage: Option<f32>,
    /// Prompt tokens found in its prefix cache so far, as the engine last reported them; null before its first report.
    pub prefix_hits: Option<u64>,
    /// KV transfers into this engine that succeeded, since the start of the run.
    #[serde(default)]
    pub transfers_in: u64,
}

/// A line of `samples.jsonl`. Which kind it is shows from its keys: `engine`, or `gpu`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Sample {
    /// A line about an engine.
    Engine(EngineSample),
    /// A line about a GPU.
    Gpu(Box<GpuSample>),
}
