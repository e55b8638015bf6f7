//! How engines are started.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::EngineId;
use dualpool_types::settings::{Problem, Rule, Section, count, described, positive, require, rule, share};

/// How each engine is started; the same for all engines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Folder of the model, in Hugging Face's layout (`config.json`, `*.safetensors`, tokenizer). Virtual engines do not read it.
    pub model: PathBuf,
    /// Number format of weights and KV cache: `auto` takes the one the model's `config.json` names, or give `bfloat16`, `float16`
    /// or `float32`. Virtual engines have none.
    pub dtype: String,
    /// Longest request an engine takes, in tokens: its prompt and its output together.
    pub max_model_len: u32,
    /// Size of the KV cache of one CPU engine, in MiB. Engines on GPUs size theirs by `engine.gpu_memory_utilization`; virtual
    /// engines have a fixed number of blocks.
    pub kv_cache_mib: u64,
    /// Share of a GPU's memory that one engine may use for weights, work space and KV cache together. At most 0.5 where two engines
    /// share a GPU. CPU engines ignore it.
    pub gpu_memory_utilization: f64,
    /// Requests that one engine step processes at most (vLLM's `max_num_seqs`). Further requests wait in the engine until one ends.
    pub max_num_seqs: u32,
    /// Tokens that one engine step processes at most, prompt and output tokens together (vLLM's `max_num_batched_tokens`). It sizes
    /// the engine's buffers, so no arrangement can tune an engine above it.
    pub max_num_batched_tokens: u32,
    /// Tokens per KV block. 0 leaves the choice to vLLM (virtual engines: 128 tokens). A multiple of 16, on CPU of 32.
    pub block_size: u32,
    /// Whether engines keep the KV of a prompt for later prompts that begin with the same tokens. Virtual engines go by
    /// `virtual.prefix_cache` instead.
    pub enable_prefix_caching: bool,
    /// Virtual environment that has vLLM. The embedded Python interpreter takes its packages from there. Under `python -m dualpool`
    /// it is the calling interpreter's environment unless you set it.
    pub venv: PathBuf,
    /// Seconds an engine may take from the start of its process until it is ready. An engine that takes longer is killed, and the
    /// run ends with an error.
    pub start_timeout_s: u64,
    /// Folder in which each vLLM engine appends a record per step (`engine-0.steps`, ...): what the step processed and how long it
    /// took. Empty = no records, except under `dualpool calibrate --engine` and `sim_fidelity`, which record into their own run
    /// folder. Virtual engines record nothing.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// Engines that are a timing model and have no weights (`pools.device = "virtual"`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VirtualEngineSettings {
    /// Where the KV memory of virtual engines lies: `none` (there is none, and a copy takes the time that the model says), `shm`
    /// (shared memory, really copied and compared) or `cuda` (GPU memory, likewise: engine i on the GPU that CUDA numbers i,
    /// counting on from 0 again where there are fewer GPUs).
    pub kv: VirtualKv,
    /// Whether virtual engines keep the KV of prompts for later prompts that begin with the same tokens, as vLLM does.
    pub prefix_cache: bool,
    /// Seconds of the engines' time that pass in one second of real time.
    pub speed: f64,
}

impl Default for VirtualEngineSettings {
    fn default() -> Self {
        VirtualEngineSettings { kv: VirtualKv::None, prefix_cache: true, speed: 1.0 }
    }
}

const DTYPES: [&str; 4] = ["auto", "bfloat16", "float16", "float32"];

impl Section for EngineSettings {
    fn rules(&self) -> Vec<Rule> {
        vec![
            rule("engine.model", "the path of a model's folder", !self.model.as_os_str().is_empty()),
            rule("engine.dtype", "auto, bfloat16, float16 or float32", DTYPES.contains(&self.dtype.as_str())),
            count("engine.max_model_len", self.max_model_len),
            count("engine.kv_cache_mib", self.kv_cache_mib),
            share("engine.gpu_memory_utilization", self.gpu_memory_utilization),
            count("engine.max_num_seqs", self.max_num_seqs),
            count("engine.max_num_batched_tokens", self.max_num_batched_tokens),
            rule("engine.block_size", "0 (the device's own) or a multiple of 16", self.block_size.is_multiple_of(16)),
            rule("engine.venv", "the path of a virtual environment", !self.venv.as_os_str().is_empty()),
            count("engine.start_timeout_s", self.start_timeout_s),
            described("engine.step_trace", "the path of a folder, or empty for no records"),
        ]
    }

    fn relations(&self) -> Vec<Problem> {
        let EngineSettings { block_size, max_model_len, max_num_seqs, max_num_batched_tokens, .. } = *self;
        let found = [
            // vLLM's scheduler gives every running sequence at least one token per step.
            require(
                max_num_batched_tokens >= max_num_seqs,
                "engine.max_num_batched_tokens",
                format!("at least engine.max_num_seqs ({max_num_seqs})"),
            ),
            require(
                block_size <= max_num_batched_tokens,
                "engine.block_size",
                format!("at most engine.max_num_batched_tokens ({max_num_batched_tokens})"),
            ),
            require(block_size <= max_model_len, "engine.block_size", format!("at most engine.max_model_len ({max_model_len})")),
        ];
        found.into_iter().flatten().collect()
    }
}

impl Section for VirtualEngineSettings {
    fn rules(&self) -> Vec<Rule> {
        vec![positive("virtual.speed", self.speed)]
    }
}
