//! The machine and the engines a run was made on.

use dualpool_fleet::Fleet;
use dualpool_machine::{Device, Placement, cpu_name, memory_total, system_file};
use dualpool_types::EngineInfo;
use dualpool_types::artifact::{Environment, EnvironmentEngine};

use crate::Settings;

/// Gathers what `run.json` says of the machine; what the system does not tell is none, or `unknown`.
pub fn gather(fleet: &Fleet, settings: &Settings) -> Environment {
    described(fleet.engines(), fleet.placements(), settings)
}

fn described(engines: &[EngineInfo], placements: &[Placement], settings: &Settings) -> Environment {
    let unknown = || "unknown".to_string();
    let first = engines.first();
    Environment {
        dualpool: env!("CARGO_PKG_VERSION").to_string(),
        backend: first.map_or_else(unknown, |e| e.backend.clone()),
        model: first.map_or_else(unknown, |e| e.model.clone()),
        dtype: settings.engine.dtype.clone(),
        os: os().unwrap_or_else(unknown),
        cpu: cpu_name().unwrap_or_else(unknown),
        cores: std::thread::available_parallelism().ok().map(|n| n.get() as u32),
        memory_bytes: memory_total().map(|memory| memory.0),
        gpus: placements.iter().filter_map(gpu_name).collect(),
        engines: engines
            .iter()
            .map(|e| EnvironmentEngine { id: e.id, device: e.device.clone(), block_size: e.block_size, kv_blocks: e.kv_blocks })
            .collect(),
    }
}

fn gpu_name(placement: &Placement) -> Option<String> {
    match &placement.device {
        Device::Gpu(gpu) => Some(format!("{gpu} {}, {}", gpu.name, gpu.memory)),
        Device::Cores(_) | Device::Virtual(_) => None,
    }
}

fn os() -> Option<String> {
    let release = system_file("/etc/os-release");
    let name = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?.trim_matches('"');
    Some(format!("{name}, Linux {}", system_file("/proc/sys/kernel/osrelease").trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_engines_is_still_described() {
        let environment = described(&[], &[], &Settings::default());
        assert!(environment.cores > Some(0) && environment.memory_bytes > Some(0));
        assert_eq!(environment.backend, "unknown");
    }
}
