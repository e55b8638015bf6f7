//! The targets that there are: a folder each, and a line in `TARGETS`.

pub mod dual_pool;
pub mod dynamic_router;
pub mod engine_timing;
pub mod migration_cost;
pub mod noise;
pub mod sim_fidelity;
pub mod simulation;
pub mod topology_probe;

use thiserror::Error;

use dualpool_types::UserError;

use crate::target::Target;

/// All targets, in the order in which they are listed.
pub const TARGETS: [&dyn Target; 8] = [
    &dual_pool::DualPool,
    &dynamic_router::DynamicRouter,
    &topology_probe::TopologyProbe,
    &migration_cost::CopyCalibration,
    &engine_timing::EngineCalibration,
    &noise::NoiseCalibration,
    &sim_fidelity::FidelityCheck,
    &simulation::FleetSimulation,
];

/// The target of this name, or an error that lists them.
pub fn find(name: &str) -> Result<&'static dyn Target, UnknownTarget> {
    TARGETS.into_iter().find(|target| target.name() == name).ok_or_else(|| UnknownTarget { name: name.to_string() })
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no target `{name}`; the targets are: {}", TARGETS.map(|target| target.name()).join(", "))]
pub struct UnknownTarget {
    name: String,
}

impl UserError for UnknownTarget {
    fn hint(&self) -> &'static str {
        "`dualpool list-targets` says what each target does"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Flags;

    #[test]
    fn targets_are_found_by_name() {
        assert_eq!(find("dual_pool").map(Target::name), Ok("dual_pool"));
        assert_eq!(
            find("dualpool").map(Target::name).unwrap_err().to_string(),
            "there is no target `dualpool`; the targets are: dual_pool, dynamic_router, topology_probe, migration_cost, engine_timing, \
             noise, sim_fidelity, simulation"
        );
    }

    #[test]
    fn no_two_targets_have_one_name_or_flag() {
        let mut flags: Vec<&str> = Vec::new();
        for (i, target) in TARGETS.into_iter().enumerate() {
            assert!(TARGETS[..i].iter().all(|other| other.name() != target.name()), "{}", target.name());
            if let Flags::Settings(own) = target.flags() {
                flags.extend(own.iter().map(|flag| flag.flag));
            }
        }
        let all = flags.len();
        flags.sort_unstable();
        flags.dedup();
        assert_eq!(flags.len(), all);
    }
}
