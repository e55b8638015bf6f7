//! What `dualpool run` can run.

use dualpool_report::{overview, topology};

use super::{engine_timing, folder, migration_cost};

/// A benchmark target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub name: &'static str,
    pub about: &'static str,
    /// What a run leaves in its folder as soon as it has anything to leave.
    pub file: &'static str,
}

pub const DUAL_POOL: Target = Target {
    name: "dual_pool",
    about: "a prefill and a decode pool with KV hand-off, against shared pools, on the same engines and requests",
    file: folder::REQUESTS,
};

pub const DYNAMIC_ROUTER: Target = Target {
    name: "dynamic_router",
    about: "the router against round robin and least load, on engines that are all alike, under workloads that tell them apart",
    file: overview::FILE,
};

pub const TOPOLOGY_PROBE: Target = Target {
    name: "topology_probe",
    about: "what this machine is made of: GPUs, NUMA nodes, NICs, and how far apart they are; `dualpool topology` shows it, too",
    file: topology::FILE,
};

pub const MIGRATION_COST: Target = Target {
    name: "migration_cost",
    about: "what copying KV costs between the devices of this machine, by size, number of runs and way to copy; needs no engines",
    file: migration_cost::FILE,
};

pub const ENGINE_TIMING: Target = Target {
    name: "engine_timing",
    about: "what a step costs on these engines, fitted to recorded ones: the timing that simulations go by (`calibrate --engine`)",
    file: engine_timing::FILE,
};

pub const SIM_FIDELITY: Target = Target {
    name: "sim_fidelity",
    about: "how far simulations are off these engines, on workloads that their timing was not fitted to",
    file: folder::REQUESTS,
};

pub const TARGETS: [Target; 6] = [DUAL_POOL, DYNAMIC_ROUTER, TOPOLOGY_PROBE, MIGRATION_COST, ENGINE_TIMING, SIM_FIDELITY];

/// The target of this name, or an error that lists them.
pub fn find(name: &str) -> Result<Target, UnknownTarget> {
    TARGETS.into_iter().find(|t| t.name == name).ok_or_else(|| UnknownTarget { name: name.to_string() })
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no target `{name}`; the targets are: {}", TARGETS.map(|t| t.name).join(", "))]
pub struct UnknownTarget {
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_by_name() {
        assert_eq!(find("dual_pool"), Ok(DUAL_POOL));
        assert_eq!(
            find("dualpool").unwrap_err().to_string(),
            "there is no target `dualpool`; the targets are: dual_pool, dynamic_router, topology_probe, migration_cost, engine_timing, \
             sim_fidelity"
        );
    }
}
