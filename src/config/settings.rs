//! Every setting, with its default. The key of a field is its path: `engine.max_model_len` (TOML table `[engine]`, environment
//! variable `DUALPOOL_ENGINE__MAX_MODEL_LEN`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DynamicRouterSettings, RouterSettings};
use crate::core::{Class, Micros, Objectives};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub engine: EngineSettings,
    pub pools: PoolSettings,
    pub router: RouterSettings,
    pub migrate: MigrateSettings,
    pub workload: WorkloadSettings,
    pub objectives: ObjectiveSettings,
    pub run: RunSettings,
    pub dynamic_router: DynamicRouterSettings,
    pub telemetry: TelemetrySettings,
    #[serde(rename = "virtual")]
    pub virtual_engines: VirtualEngineSettings,
}

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// GPUs when there are two or more (or one for both pools), else CPU.
    Auto,
    Cpu,
    Gpu,
    /// Engines with a calibrated timing model and no weights.
    Virtual,
}

/// Which devices serve which pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolSettings {
    pub device: DeviceKind,
    /// GPU indices, or on CPU the indices of the core sets the machine is divided into (one set per engine).
    pub prefill_gpus: Vec<u32>,
    pub decode_gpus: Vec<u32>,
}

impl PoolSettings {
    /// What `device` comes to on a machine with this many GPUs; never `Auto`.
    pub fn device_kind(&self, gpus: usize) -> DeviceKind {
        match self.device {
            DeviceKind::Auto if gpus >= 2 || (gpus == 1 && self.prefill_gpus == [0] && self.decode_gpus == [0]) => DeviceKind::Gpu,
            DeviceKind::Auto => DeviceKind::Cpu,
            chosen => chosen,
        }
    }

    /// Engines over both pools.
    pub fn engines(&self) -> usize {
        self.prefill_gpus.len() + self.decode_gpus.len()
    }
}

impl Default for PoolSettings {
    fn default() -> Self {
        PoolSettings { device: DeviceKind::Auto, prefill_gpus: vec![0], decode_gpus: vec![1] }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MigrateSettings {
    /// How long an engine keeps blocks that nobody fetched.
    pub lease_ms: u64,
    /// Compare checksums of source and destination blocks of every plan.
    pub verify_kv: bool,
    /// Where the control socket lives; a folder of its own, made with mode 0700. Empty = a fresh one in the system's temporary folder.
    pub run_dir: PathBuf,
    /// Where `dualpool calibrate` leaves what copies cost here, and where runs read it. Empty = `artifacts/migration_cost/calibration.json`,
    /// `none` = runs do without.
    pub calibration: PathBuf,
    /// Blocks that a copy kernel on a GPU has at most: more copy faster, and take more of the GPU from the engine.
    pub copy_grid_blocks_max: u32,
}

/// 16 blocks keep half a megabyte of loads under way (2 KiB for each of their 256 warps), which by Little's law is some 700 GB/s at 700 ns:
/// more than a link between GPUs carries, with most multiprocessors left to the engine. An estimate: `scripts/gpu_check` measures both on
/// the GPU at hand.
pub const COPY_GRID_BLOCKS: u32 = 16;

/// Where a calibration of copies lies when nobody names another place.
const CALIBRATION_FILE: &str = "artifacts/migration_cost/calibration.json";

impl MigrateSettings {
    /// Where the calibration of copies lies; none when runs are to do without.
    pub fn calibration_file(&self) -> Option<PathBuf> {
        match self.calibration.to_str() {
            Some("none") => None,
            Some("") => Some(CALIBRATION_FILE.into()),
            _ => Some(self.calibration.clone()),
        }
    }

    /// Whether the user named the file, and so relies on it.
    pub fn names_calibration(&self) -> bool {
        !self.calibration.as_os_str().is_empty()
    }
}

impl Default for MigrateSettings {
    fn default() -> Self {
        MigrateSettings {
            lease_ms: 30_000,
            verify_kv: false,
            run_dir: PathBuf::new(),
            calibration: PathBuf::new(),
            copy_grid_blocks_max: COPY_GRID_BLOCKS,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mix {
    /// A burst of long prompts among chats: `prefill_burst` long and `decode_requests + continue_requests` short ones.
    Balanced,
    /// Short prompts with long answers, a long prompt now and then.
    DecodeHeavy,
    /// Very long prompts among chats: two to four times `long_prompt_tokens`, but not over 4096 tokens unless that is longer itself.
    LongContext,
    /// Long prompts that arrive in clumps.
    Burst,
    /// `Balanced`, then `LongContext`, then `DecodeHeavy`: requests that change twice what they ask of a fleet.
    Changing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    AllUpfront,
    Poisson,
}

/// The requests of one repetition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkloadSettings {
    pub mix: Mix,
    pub arrivals: Arrivals,
    /// Offered load as a share of the measured saturation; used when `rate` is 0.
    pub load: f64,
    /// Offered requests per second; 0 = derive it from `load`.
    pub rate: f64,
    pub long_prompt_tokens: u32,
    pub short_prompt_tokens: u32,
    pub prefill_burst: u32,
    pub decode_requests: u32,
    pub continue_requests: u32,
    pub max_tokens: u32,
    pub seed: u64,
}

impl Default for WorkloadSettings {
    fn default() -> Self {
        WorkloadSettings {
            mix: Mix::Balanced,
            arrivals: Arrivals::Poisson,
            load: 0.7,
            rate: 0.0,
            long_prompt_tokens: 1024,
            short_prompt_tokens: 64,
            prefill_burst: 12,
            decode_requests: 48,
            continue_requests: 48,
            max_tokens: 32,
            seed: 1,
        }
    }
}

/// What counts as good service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveSettings {
    /// After any prompt; 0 = by the prompt's length, as below.
    pub ttft_ms: f64,
    pub ttft_short_ms: f64,
    pub ttft_long_ms: f64,
    pub itl_ms: f64,
}

impl Default for ObjectiveSettings {
    fn default() -> Self {
        ObjectiveSettings { ttft_ms: 0.0, ttft_short_ms: 500.0, ttft_long_ms: 3000.0, itl_ms: 200.0 }
    }
}

impl ObjectiveSettings {
    /// What a request of this class asks for.
    pub fn of(&self, class: Class) -> Objectives {
        Objectives { ttft_us_max: Micros::from_ms(self.ttft_ms_of(class)), itl_us_max: Micros::from_ms(self.itl_ms) }
    }

    /// TTFT after a prompt of this class.
    pub fn ttft_ms_of(&self, class: Class) -> f64 {
        match class {
            _ if self.ttft_ms > 0.0 => self.ttft_ms,
            Class::Short => self.ttft_short_ms,
            Class::Long => self.ttft_long_ms,
        }
    }
}

/// The arms a benchmark can run, in the order in which it runs them by default.
pub const ARMS: [&str; 7] =
    ["shared_round_robin", "shared_least_load", "shared_tuned", "dedicated", "full_disaggregation", "dual_pool", "auto"];

/// Arms that run when they are named: `auto_online` chooses its arrangement while it serves.
pub const ARMS_ON_REQUEST: [&str; 1] = ["auto_online"];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// The arms to run, in order. `shared_tuned`, or else the first one, is the reference: it runs twice (the A/A control), and output
    /// tokens are compared with its own.
    pub arms: Vec<String>,
    pub repetitions: u32,
    pub quick: bool,
    pub exact: bool,
    /// Empty = `artifacts/<target>/<UTC time>-<id>`.
    pub out: PathBuf,
    pub bootstrap_resamples: u32,
    /// Time for the search that tunes `shared_tuned`, `dual_pool` and `auto`.
    pub search_budget_s: u64,
    /// The folder of what was accepted of earlier runs, a file per kind of machine, that a run is held against; `none` = no such thing.
    pub expectations: PathBuf,
    /// Whether this run's ratios are what later ones are held against.
    pub update_expectations: bool,
}

impl RunSettings {
    /// The folder of expectations; none where the run is held against nothing.
    pub fn expectations_folder(&self) -> Option<&Path> {
        (self.expectations.as_path() != Path::new("none")).then_some(&self.expectations)
    }
}

impl Default for RunSettings {
    fn default() -> Self {
        RunSettings {
            arms: ARMS.map(String::from).to_vec(),
            repetitions: 3,
            quick: false,
            exact: false,
            out: PathBuf::new(),
            bootstrap_resamples: 2000,
            search_budget_s: 90,
            expectations: "expectations".into(),
            update_expectations: false,
        }
    }
}

/// What watches a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileKind {
    None,
    /// This program's own timings; its ranges show in any profiler that it runs under.
    Minimal,
    /// Nsight Systems: when every copy and every kernel ran.
    Nsys,
    /// Nsight Compute: how well single kernels use the memory.
    Ncu,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// Period of the engine samples in `samples.jsonl`.
    pub sample_ms: u64,
    /// Period of the GPU samples there. The router forgets a sample after three seconds, so with a longer period it often has none.
    pub gpu_sample_ms: u64,
    /// Log filter, as `tracing` writes them: `warn`, `info,dualpool::engine=debug`.
    pub log: String,
    /// What watches a run and leaves `profile.json`: `none`, `minimal`, `nsys` or `ncu`.
    pub profile: ProfileKind,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        TelemetrySettings { sample_ms: 50, gpu_sample_ms: 100, log: "warn".into(), profile: ProfileKind::None }
    }
}

/// Where the KV memory of virtual engines lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtualKv {
    /// There is none: moves take the time that the model says.
    None,
    /// Shared memory, which the migrator copies.
    Shm,
    /// Memory of GPUs, which the migrator copies: engine `i` of `pools` on the GPU that CUDA numbers `i` (and from the first one again
    /// when there are fewer).
    Cuda,
}

/// Engines without weights (`pools.device = "virtual"`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VirtualEngineSettings {
    pub kv: VirtualKv,
    /// Whether KV blocks keep what they hold for later prompts that begin alike, as vLLM's do.
    pub prefix_cache: bool,
    /// Model time that passes per second of real time.
    pub speed: f64,
}

impl Default for VirtualEngineSettings {
    fn default() -> Self {
        VirtualEngineSettings { kv: VirtualKv::None, prefix_cache: true, speed: 1.0 }
    }
}
