//! What an engine is.

use serde::{Deserialize, Serialize};

use crate::EngineId;

/// What is fixed for an engine's life, known once it is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineInfo {
    pub id: EngineId,
    /// The device the engine is pinned to, in words: `cores 0` or `GPU 0 (GPU-1f0c...)`.
    pub device: String,
    pub model: String,
    /// Engine and version, such as `vllm 0.32.0`.
    pub backend: String,
    /// Longest prompt + output the engine takes, in tokens.
    pub max_model_len: u32,
    pub vocab_size: u32,
    /// Tokens per KV block, and blocks in all.
    pub block_size: u32,
    pub kv_blocks: u32,
    /// Tokens one step may process at most (the start value, the ceiling for `Tuning`).
    pub max_num_batched_tokens: u32,
    pub max_num_seqs: u32,
    /// Whether the engine can hold and load KV blocks.
    pub kv_transfer: bool,
    /// Whether the engine keeps the KV of prompts for later ones that begin alike.
    #[serde(default)]
    pub prefix_caching: bool,
    /// Process id of the engine; none for engines without a process of their own.
    pub pid: Option<u32>,
}
