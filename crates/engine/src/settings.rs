//! How engines are started.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use dualpool_types::EngineId;

/// How each engine is started; the same for all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// A folder with a model in Hugging Face's layout.
    pub model: PathBuf,
    /// `auto`, `bfloat16`, `float16` or `float32`.
    pub dtype: String,
    /// Longest prompt + output, in tokens.
    pub max_model_len: u32,
    /// KV cache of one engine on CPU, in MiB. GPU engines size theirs by `gpu_memory_utilization`.
    pub kv_cache_mib: u64,
    /// Share of a GPU's memory that one engine may take.
    pub gpu_memory_utilization: f64,
    /// Requests one step may process at most.
    pub max_num_seqs: u32,
    /// Tokens one step may process at most, and the ceiling for every arrangement's tuning.
    pub max_num_batched_tokens: u32,
    /// Tokens per KV block; 0 = vLLM's default for the device.
    pub block_size: u32,
    pub enable_prefix_caching: bool,
    /// The virtual environment with vLLM.
    pub venv: PathBuf,
    pub start_timeout_s: u64,
    /// A folder in which every engine records what each of its steps was made of and how long it took (`engine-0.steps`, ...);
    /// empty = they record nothing. Engines of vLLM only.
    pub step_trace: PathBuf,
}

impl EngineSettings {
    /// Where this engine records its steps; none when nothing is recorded.
    pub fn step_trace_of(&self, engine: EngineId) -> Option<PathBuf> {
        let folder = &self.step_trace;
        (!folder.as_os_str().is_empty()).then(|| folder.join(format!("{engine}.steps")))
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        EngineSettings {
            model: "models/smollm2-135m-instruct".into(),
            dtype: "auto".into(),
            max_model_len: 4608,
            kv_cache_mib: 768,
            gpu_memory_utilization: 0.85,
            max_num_seqs: 64,
            max_num_batched_tokens: 2048,
            block_size: 0,
            enable_prefix_caching: true,
            venv: ".venv".into(),
            start_timeout_s: 600,
            step_trace: PathBuf::new(),
        }
    }
}

/// Where the KV memory of virtual engines lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtualKv {
    /// There is none: copies take the time that the model says.
    None,
    /// Shared memory, which the KV server copies.
    Shm,
    /// Memory of GPUs, which the KV server copies: engine `i` of `pools` on the GPU that CUDA numbers `i` (and from the first one again
    /// when there are fewer).
    Cuda,
}

/// Engines without weights (`pools.device = "virtual"`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VirtualEngineSettings {
    pub kv: VirtualKv,
    /// Whether KV blocks keep what they hold for later prompts with the same beginning, as vLLM's do.
    pub prefix_cache: bool,
    /// Model time that passes per second of real time.
    pub speed: f64,
}

impl Default for VirtualEngineSettings {
    fn default() -> Self {
        VirtualEngineSettings { kv: VirtualKv::None, prefix_cache: true, speed: 1.0 }
    }
}
