//! The machine and the engines a run was made on.

use std::fs;

use crate::config::Settings;
use crate::device::{cpu_name, memory_bytes};
use crate::engine::EngineInfo;
use crate::report::{Environment, EnvironmentEngine};

/// Gathers what `run.json` says of the machine. `gpus` names the GPUs in use; what the system does not tell is `unknown`.
pub fn gather(engines: &[EngineInfo], settings: &Settings, gpus: Vec<String>) -> Environment {
    let unknown = || "unknown".to_string();
    let first = engines.first();
    Environment {
        dualpool: env!("CARGO_PKG_VERSION").to_string(),
        backend: first.map_or_else(unknown, |e| e.backend.clone()),
        model: first.map_or_else(unknown, |e| e.model.clone()),
        dtype: settings.engine.dtype.clone(),
        os: os().unwrap_or_else(unknown),
        cpu: cpu_name(&read("/proc/cpuinfo")).unwrap_or_else(unknown),
        cores: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
        memory_bytes: memory_bytes(&read("/proc/meminfo")).unwrap_or(0),
        gpus,
        engines: engines
            .iter()
            .map(|e| EnvironmentEngine { id: e.id, device: e.device.clone(), block_size: e.block_size, kv_blocks: e.kv_blocks })
            .collect(),
    }
}

/// An unreadable file is an empty one: nothing is found in it.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn os() -> Option<String> {
    let release = read("/etc/os-release");
    let name = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?.trim_matches('"');
    Some(format!("{name}, Linux {}", read("/proc/sys/kernel/osrelease").trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_engines_is_still_described() {
        let environment = gather(&[], &Settings::default(), vec![]);
        assert!(environment.cores > 0 && environment.memory_bytes > 0);
        assert_eq!(environment.backend, "unknown");
    }
}
