//! What a virtual engine is like.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::{EngineInfo, Micros};

/// What one step computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepWork {
    pub prompt_tokens: u32,
    pub decodes: u32,
    /// Tokens of context that the decodes read.
    pub context: u64,
    /// Over the prompt tokens, the sum of the context that each of them reads.
    pub attention: u64,
}

/// What an engine's step costs, in microseconds. The defaults were measured on one x86 core with a 135M-parameter model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// The cost of any step in microseconds.
    pub step_us: f64,
    /// What a step that decodes anything costs on top in microseconds: the weights are read for few tokens.
    pub decode_step_us: f64,
    /// The cost of one decode in a step in microseconds.
    pub decode_us: f64,
    /// The cost of one prompt token in microseconds.
    pub prefill_us: f64,
    /// The cost of one token of context read by a decode in microseconds.
    pub context_us: f64,
    /// The cost of one token of context read by a prompt token in microseconds.
    pub attention_us: f64,
    /// The time from the sending of a leg to its engine and from a step's end to its tokens leaving dualpool, together, in
    /// microseconds. Engines that run in real time have a real one instead.
    pub round_trip_us: f64,
    /// The cost of one copy of KV in microseconds.
    pub copy_us: f64,
    /// The cost of one token of a copy of KV in microseconds.
    pub copy_us_per_token: f64,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            step_us: 1_000.0,
            decode_step_us: 13_200.0,
            decode_us: 800.0,
            prefill_us: 690.0,
            context_us: 0.3,
            attention_us: 0.0,
            round_trip_us: 0.0,
            copy_us: 6_000.0,
            copy_us_per_token: 4.0,
        }
    }
}

impl Timing {
    pub fn step(&self, work: &StepWork) -> Micros {
        let decoding = if work.decodes > 0 { self.decode_step_us } else { 0.0 };
        let us = self.step_us
            + decoding
            + self.decode_us * f64::from(work.decodes)
            + self.prefill_us * f64::from(work.prompt_tokens)
            + self.context_us * work.context as f64
            + self.attention_us * work.attention as f64;
        Micros(us.round() as u64)
    }

    pub fn round_trip(&self) -> Micros {
        Micros(self.round_trip_us.round() as u64)
    }

    pub fn copy(&self, tokens: u32) -> Micros {
        Micros((self.copy_us + self.copy_us_per_token * f64::from(tokens)).round() as u64)
    }
}

/// What a virtual engine is like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VirtualSettings {
    /// What its steps cost.
    pub timing: Timing,
    /// The tokens that one KV block holds.
    pub block_size: u32,
    /// The number of KV blocks.
    pub kv_blocks: u32,
    /// The longest context in tokens.
    pub max_model_len: u32,
    /// The tokens that one step may process.
    pub max_num_batched_tokens: u32,
    /// The requests that one step may process.
    pub max_num_seqs: u32,
    /// The number of tokens in the vocabulary.
    pub vocab_size: u32,
    /// Whether blocks keep their KV for later prompts with the same beginning, until they are needed.
    pub prefix_cache: bool,
    /// The bytes of KV per token, for the figures of a copy.
    pub kv_bytes_per_token: u64,
    /// The model time in seconds that passes per second of real time.
    pub speed: f64,
}

impl VirtualSettings {
    /// A virtual engine of a real one's size.
    pub fn like(engine: &EngineInfo, timing: Timing) -> VirtualSettings {
        VirtualSettings {
            timing,
            block_size: engine.block_size,
            kv_blocks: engine.kv_blocks,
            max_model_len: engine.max_model_len,
            max_num_batched_tokens: engine.max_num_batched_tokens,
            max_num_seqs: engine.max_num_seqs,
            vocab_size: engine.vocab_size,
            ..VirtualSettings::default()
        }
    }
}

impl Default for VirtualSettings {
    fn default() -> Self {
        VirtualSettings {
            timing: Timing::default(),
            block_size: 128,
            kv_blocks: 256,
            max_model_len: 4608,
            max_num_batched_tokens: 2048,
            max_num_seqs: 64,
            vocab_size: 32_000,
            prefix_cache: true,
            kv_bytes_per_token: 23_040,
            speed: 1.0,
        }
    }
}
