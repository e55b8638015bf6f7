//! What an engine, and the device it runs on, say of themselves.

use serde::{Deserialize, Serialize};

use super::Bytes;

/// A snapshot of an engine, taken by the engine with a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineStats {
    /// Requests that wait for their first scheduling (queue depth = waiting + running).
    pub waiting: u32,
    pub running: u32,
    /// Share of the engine's KV blocks in use, 0 to 1.
    pub kv_usage: f32,
    /// Prompt tokens looked up in the prefix cache, and found there, since the engine started.
    pub prefix_queries: u64,
    pub prefix_hits: u64,
    /// Since the engine started: prompt tokens computed, output tokens made, steps taken.
    pub prompt_tokens_computed: u64,
    pub output_tokens: u64,
    pub steps: u64,
}

/// A snapshot of an engine's device. What the device does not tell is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceSignals {
    /// Share of the device's compute units at work, 0 to 1, whichever process they work for.
    pub busy: Option<f32>,
    pub memory_free: Option<Bytes>,
    /// Heat or power makes it slower than its neighbours.
    pub slowed: Option<bool>,
    /// It is gone, and the engine's death is only a matter of time.
    pub lost: bool,
}
