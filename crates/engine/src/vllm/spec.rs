//! What an engine is started with, and the checks that need no vLLM.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use dualpool_machine::memory_available;
use dualpool_types::settings::{Problem, Rule, Section as _, values, written};
use dualpool_types::{Bytes, CpuList, EngineId};

use super::error::StartError;
use super::folder::EngineFolder;
use super::tuning::TuningFile;
use crate::{EngineSettings, weight_bytes};

/// One engine to start.
#[derive(Clone, Debug)]
pub struct EngineSpec {
    pub id: EngineId,
    pub pin: Pin,
    /// The NUMA node to take memory from while it has some left; none leaves that to the kernel.
    pub memory_node: Option<u32>,
    pub settings: EngineSettings,
    /// A file to which the engine adds a record per step (`StepRecord`); none where steps are not recorded.
    pub step_trace: Option<PathBuf>,
    /// Where the KV server listens; without it the engine cannot hold or fetch KV blocks.
    pub control_socket: Option<PathBuf>,
}

/// The device an engine computes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    Cores(Vec<u32>),
    /// The UUID decides, as indices depend on `CUDA_VISIBLE_DEVICES`; `cores` are those near the GPU (empty = any).
    Gpu {
        index: u32,
        uuid: String,
        cores: Vec<u32>,
    },
}

impl Pin {
    pub fn cores(&self) -> &[u32] {
        match self {
            Pin::Cores(cores) | Pin::Gpu { cores, .. } => cores,
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pin::Cores(cores) => write!(f, "{} {}", if cores.len() == 1 { "core" } else { "cores" }, cpu_list(cores)),
            Pin::Gpu { index, uuid, .. } => write!(f, "GPU {index} ({uuid})"),
        }
    }
}

fn cpu_list(cores: &[u32]) -> CpuList {
    cores.iter().copied().collect()
}

impl EngineSpec {
    /// The arguments as `dualpool/engine.py` takes them.
    pub(super) fn to_json(&self, folder: &EngineFolder, tuning: &TuningFile, environment: &Value) -> Value {
        let settings = &self.settings;
        let mut environment = environment.clone();
        environment["TMPDIR"] = json!(folder.path());
        let gpu = match &self.pin {
            Pin::Gpu { uuid, .. } => Some(uuid),
            Pin::Cores(cores) => {
                let list: Vec<String> = cores.iter().map(u32::to_string).collect();
                environment["OMP_NUM_THREADS"] = json!(cores.len().to_string());
                environment["GOMP_CPU_AFFINITY"] = json!(list.join(" "));
                environment["VLLM_CPU_OMP_THREADS_BIND"] = json!(list.join(","));
                None
            }
        };
        json!({
            "id": self.id.0,
            "name": self.id.to_string(),
            "cores": self.pin.cores(),
            "memory_node": self.memory_node,
            "gpu": gpu,
            "environment": environment,
            "control": self.control_socket,
            "folder": folder.path(),
            "tuning": tuning.path(),
            "steps": self.step_trace,
            "model": settings.model,
            "dtype": settings.dtype,
            "max_model_len": settings.max_model_len,
            "kv_cache_bytes": settings.kv_cache_mib << 20,
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "max_num_seqs": settings.max_num_seqs,
            "max_num_batched_tokens": settings.max_num_batched_tokens,
            "block_size": settings.block_size,
            "enable_prefix_caching": settings.enable_prefix_caching,
        })
    }
}

/// Everything that can be refused without starting anything, so that it is refused at once and in our words.
pub(super) fn check_all(specs: &[EngineSpec]) -> Result<(), StartError> {
    let mut ids = BTreeSet::new();
    for spec in specs {
        check_settings(&spec.settings)?;
        check_model(&spec.settings.model)?;
        check_cores(spec)?;
        if !ids.insert(spec.id) {
            return Err(StartError::Twice { engine: spec.id });
        }
    }
    check_memory(specs)
}

/// Settings are checked where they are loaded, too; those of a program that makes its own are checked here.
fn check_settings(settings: &EngineSettings) -> Result<(), StartError> {
    let broken = settings.rules().into_iter().find_map(Rule::problem);
    let Some(Problem { key, allowed }) = broken.or_else(|| settings.relations().into_iter().next()) else { return Ok(()) };
    let values = values(&BTreeMap::from([("engine", settings)]));
    Err(StartError::Setting { key, value: values.get(key).map(written).unwrap_or_default(), allowed })
}

fn check_model(model: &Path) -> Result<(), StartError> {
    let refuse = |why: &str| Err(StartError::Model { path: model.to_path_buf(), why: why.to_owned() });
    if !model.exists() {
        return refuse("it does not exist; run `make setup` for the default model, or set `--model`");
    }
    if !model.is_dir() {
        return refuse("it is not a folder; name the folder that holds config.json");
    }
    match std::fs::read_to_string(model.join("config.json")) {
        Err(_) => refuse("it holds no config.json; name a folder in Hugging Face's layout"),
        Ok(text) if serde_json::from_str::<Value>(&text).is_ok_and(|config| config.is_object()) => Ok(()),
        Ok(_) => refuse("its config.json is not a JSON object; download the model again"),
    }
}

fn check_cores(spec: &EngineSpec) -> Result<(), StartError> {
    if matches!(&spec.pin, Pin::Cores(cores) if cores.is_empty()) {
        return Err(StartError::Cores { engine: spec.id, cores: "no core".into(), allowed: "at least one core".into() });
    }
    // Where the affinity cannot be read, the engine's own start will tell.
    let Ok(allowed) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else { return Ok(()) };
    let usable: Vec<u32> =
        (0..nix::sched::CpuSet::count()).filter(|&core| allowed.is_set(core) == Ok(true)).map(|c| c as u32).collect();
    match spec.pin.cores().iter().find(|core| !usable.contains(core)) {
        None => Ok(()),
        Some(core) => Err(StartError::Cores {
            engine: spec.id,
            cores: format!("core {core}"),
            allowed: format!("cores {}", cpu_list(&usable)),
        }),
    }
}

/// CPU engines share the machine's memory with everything else: one that does not fit makes the kernel kill something, not
/// necessarily the engine. GPU engines are told by vLLM itself.
fn check_memory(specs: &[EngineSpec]) -> Result<(), StartError> {
    let cpu: Vec<_> = specs.iter().filter(|spec| matches!(spec.pin, Pin::Cores(_))).collect();
    let (Some(first), Some(available)) = (cpu.first(), memory_available()) else { return Ok(()) };
    // Loading in another dtype may take up to twice as much, or half.
    let weights = weight_bytes(&first.settings.model);
    let kv_cache = Bytes::from_mib(first.settings.kv_cache_mib);
    let engines = cpu.len() as u64;
    if (weights.0 + kv_cache.0) * engines <= available.0 {
        return Ok(());
    }
    Err(StartError::Memory { model: first.settings.model.clone(), engines, weights, kv_cache, available })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_read_like_a_device() {
        assert_eq!(Pin::Cores(vec![0]).to_string(), "core 0");
        assert_eq!(Pin::Cores(vec![0, 1, 2, 5, 8, 9]).to_string(), "cores 0-2,5,8-9");
        assert_eq!(Pin::Gpu { index: 1, uuid: "GPU-1f0c".into(), cores: vec![] }.to_string(), "GPU 1 (GPU-1f0c)");
    }

    #[test]
    fn impossible_settings_are_named() {
        let message = |change: fn(&mut EngineSettings)| {
            let mut settings = EngineSettings::default();
            change(&mut settings);
            check_settings(&settings).unwrap_err().to_string()
        };
        assert_eq!(message(|s| s.max_num_seqs = 0), "`engine.max_num_seqs` is 0; allowed is: a whole number of at least 1");
        assert!(message(|s| s.max_num_batched_tokens = 8).contains("at least engine.max_num_seqs (64)"));
        assert!(
            message(|s| s.gpu_memory_utilization = f64::NAN)
                .contains("is not a finite number; allowed is: a share over 0, at most 1")
        );
        assert!(message(|s| s.dtype = "int3".into()).contains("\"int3\""));
        assert!(check_settings(&EngineSettings::default()).is_ok());
    }
}
