//! Devices, model, memory and folders.

use std::path::{Path, PathBuf};

use dualpool_bench::Settings;
use dualpool_engine::weight_bytes;
use dualpool_machine::{Device, DeviceKind, Gpus, memory_available};
use dualpool_types::Bytes;
use dualpool_types::records::can_write_in;

use super::Check;

pub(super) fn gpus(gpus: &Gpus, wanted: DeviceKind) -> Check {
    let why = gpus.why_none.clone().unwrap_or_default();
    match wanted {
        _ if !gpus.is_empty() => {
            let names = gpus.list.iter().map(|gpu| format!("{} {} ({})", gpu.index, gpu.name, gpu.memory));
            Check::good("GPUs", names.collect::<Vec<_>>().join(", "))
        }
        DeviceKind::Gpu => Check::missing("GPUs", why, "install NVIDIA's driver, or use --device cpu"),
        _ => Check::good("GPUs", format_args!("none ({why}); engines run on CPU cores")),
    }
}

/// Whether every engine gets a device; on CPU this reads the machine through hwloc.
pub(super) fn devices(settings: &Settings, gpus: &Gpus) -> Check {
    let name = "devices";
    match dualpool_machine::choose(&settings.pools, gpus) {
        Ok(placements) => {
            let engines: Vec<_> = placements.iter().map(|p| format!("{} for {}", p.device, p.pool.name())).collect();
            let what = engines.join(", ");
            if placements.iter().any(|p| matches!(&p.device, Device::Cores(set) if set.shares_cores)) {
                return Check::poor(name, format_args!("{what}, which share cores"), "give this machine a core per engine");
            }
            Check::good(name, what)
        }
        Err(error) => Check::missing(name, error, "dualpool config, then set pools.prefill_gpus and pools.decode_gpus"),
    }
}

pub(super) fn model_and_memory(settings: &Settings, device: DeviceKind) -> Vec<Check> {
    if device == DeviceKind::Virtual {
        return vec![Check::good("model", "not needed for virtual engines")];
    }
    let folder = &settings.engine.model;
    match weights(folder) {
        Ok(weights) => {
            let model = Check::good("model", format_args!("{}, {weights} of weights", folder.display()));
            if device == DeviceKind::Cpu { vec![model, memory(settings, weights)] } else { vec![model] }
        }
        Err(why) => vec![Check::missing("model", format_args!("{}: {why}", folder.display()), "make setup, or --model DIR")],
    }
}

fn weights(folder: &Path) -> Result<Bytes, String> {
    let config = std::fs::read_to_string(folder.join("config.json")).map_err(|error| format!("no config.json ({error})"))?;
    let config: serde_json::Value = serde_json::from_str(&config).map_err(|error| format!("config.json is not JSON: {error}"))?;
    if config.get("architectures").is_none() {
        return Err("config.json names no `architectures`, so this is not a model".into());
    }
    match weight_bytes(folder) {
        Bytes(0) => Err("no .safetensors file in it".into()),
        weights => Ok(weights),
    }
}

/// What a CPU engine takes besides weights and KV cache: interpreter, torch, activations.
const ENGINE_OVERHEAD_MIB: u64 = 1024;

fn memory(settings: &Settings, weights: Bytes) -> Check {
    let engines = settings.pools.engines() as u64;
    let each = weights.0 + Bytes::from_mib(settings.engine.kv_cache_mib + ENGINE_OVERHEAD_MIB).0;
    let needed = Bytes(engines * each);
    let Some(free) = memory_available() else {
        return Check::poor("memory", "/proc/meminfo does not tell how much is free", format_args!("see that {needed} are free"));
    };
    let what = format!("{free} free, about {needed} needed for {engines} engines");
    if free.0 >= needed.0 {
        Check::good("memory", what)
    } else {
        Check::missing("memory", what, "lower --kv-cache-mib, or take a smaller model")
    }
}

/// The folders that a run writes to.
pub(super) fn folders(settings: &Settings) -> Vec<Check> {
    let chosen = |path: &PathBuf, default: PathBuf| if path.as_os_str().is_empty() { default } else { path.clone() };
    let run_dir = chosen(&settings.kv.run_dir, std::env::temp_dir());
    let out = chosen(&settings.run.out, PathBuf::from("artifacts"));
    vec![folder("run folder", &run_dir, "--run-dir DIR"), folder("artifacts", &out, "--out DIR")]
}

fn folder(name: &'static str, path: &Path, mend: &str) -> Check {
    match can_write_in(path) {
        Ok(()) => Check::good(name, format_args!("{} can be written", path.display())),
        Err(why) => Check::missing(name, why, mend),
    }
}

/// KV caches of CPU engines lie in memory files, vLLM's own queues in /dev/shm.
pub(super) fn shared_memory() -> Check {
    let name = "shared memory";
    if let Err(error) = nix::sys::memfd::memfd_create(c"dualpool-doctor", nix::sys::memfd::MFdFlags::MFD_CLOEXEC) {
        return Check::missing(
            name,
            format_args!("memfd_create failed: {error}"),
            "allow memfd_create in this container's seccomp profile",
        );
    }
    let free = match nix::sys::statvfs::statvfs("/dev/shm") {
        Ok(stat) => Bytes(stat.blocks_available() * stat.fragment_size()),
        Err(error) => return Check::missing(name, format_args!("/dev/shm: {error}"), "mount -t tmpfs tmpfs /dev/shm"),
    };
    if free.0 < Bytes::from_mib(SHM_MIB_MIN).0 {
        return Check::missing(
            name,
            format_args!("{free} free in /dev/shm"),
            "mount -o remount,size=1G /dev/shm (docker: --shm-size=1g)",
        );
    }
    Check::good(name, format_args!("memory files work, {free} free in /dev/shm"))
}

/// Each engine's message queues take a few MiB.
const SHM_MIB_MIN: u64 = 48;
