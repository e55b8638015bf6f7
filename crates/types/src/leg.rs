//! What passes between the fleet and an engine: legs in, steps out.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EngineId, EngineStats, LegId, Sampling, Time, TokenId};

/// One stay of a request on one engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Leg {
    pub id: LegId,
    /// Prompt and all output tokens so far: after a hand-off the first token is the prompt's last.
    pub prompt: Arc<[TokenId]>,
    /// Output tokens of THIS leg; at least 1.
    pub max_tokens: u32,
    pub ignore_eos: bool,
    pub sampling: Sampling,
    /// Where the KV of `prompt` can be copied from, instead of computing it.
    pub kv_source: Option<KvSource>,
    /// Keep the KV blocks when the leg ends, for a later leg to load, until they are released or their lease runs out.
    pub hold: bool,
}

/// KV blocks that another engine holds for this leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSource {
    pub engine: EngineId,
    /// The leg that holds the blocks there.
    pub leg: LegId,
    /// The blocks cover this many tokens from the start of the prompt.
    pub tokens: u32,
}

/// KV blocks that an engine kept when a leg ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldKv {
    /// The blocks cover this many tokens.
    pub tokens: u32,
}

/// All that one step of an engine produced. Engines emit one of these per step, not one per token.
#[derive(Clone, Debug)]
pub struct LegStep {
    pub engine: EngineId,
    /// When the step's outputs left the engine's process (`CLOCK_MONOTONIC`).
    pub core_at: Time,
    pub outputs: Vec<LegOutput>,
    pub stats: Option<EngineStats>,
}

/// What one step gave one leg.
#[derive(Clone, Debug, PartialEq)]
pub struct LegOutput {
    pub leg: LegId,
    pub tokens: Vec<TokenId>,
    /// Prompt tokens that the engine did not compute (prefix-cache hits and loaded KV); known with the leg's first output.
    pub cached_tokens: Option<u32>,
    /// Present on the leg's last output, exactly once.
    pub finish: Option<LegFinish>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LegFinish {
    pub reason: FinishReason,
    /// Present when the leg was to hold its KV and the engine does.
    pub held: Option<HeldKv>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// `max_tokens` reached.
    Length,
    /// The model ended its answer.
    Stop,
    /// Aborted by us.
    Aborted,
    /// The engine gave up on this leg; its own words.
    Error(String),
}

/// Prompt tokens that a step takes beside its running requests at least, however small it is tuned, so that prompts always get on.
pub const PREFILL_TOKENS_MIN: u32 = 8;

/// Scheduler settings that an engine takes while it runs (vLLM's names and meanings). A setting that is absent stays as the engine
/// was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// The tokens that one step may process, prompt and output together; at most the value the engine was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_batched_tokens: Option<u32>,
    /// The tokens that one long prompt may take of a step; 0 sets no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_prefill_token_threshold: Option<u32>,
}
