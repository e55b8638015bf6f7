//! Which arrangements are simulated, side by side.

use clap::ValueEnum;

use dualpool_sim::scenario::{Scenario, ScenarioError};
use dualpool_types::{Arrangement, PolicyKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// Round robin over all engines alike.
    Baseline,
    /// As the scenario arranges its fleet.
    Optimized,
}

pub(super) fn policy(name: &str) -> Result<PolicyKind, String> {
    let known = || PolicyKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    PolicyKind::ALL
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| format!("there is no such policy; there are {}", known()))
}

/// The mode asked for, or both when nothing is, and then an arm per policy.
pub(super) fn of(scenario: &Scenario, mode: Option<Mode>, policies: &[PolicyKind]) -> Result<Vec<Arrangement>, ScenarioError> {
    let modes: &[Mode] = match (mode, policies.is_empty()) {
        (Some(Mode::Baseline), _) => &[Mode::Baseline],
        (Some(Mode::Optimized), _) => &[Mode::Optimized],
        (None, true) => &[Mode::Baseline, Mode::Optimized],
        (None, false) => &[],
    };
    let mut arms = Vec::new();
    for mode in modes {
        arms.push(match mode {
            Mode::Baseline => scenario.baseline("baseline", PolicyKind::RoundRobin),
            Mode::Optimized => scenario.optimized("optimized", scenario.policy)?,
        });
    }
    for &policy in policies {
        let arm = scenario.optimized(policy.name(), policy)?;
        if arms.iter().all(|other| other.name != arm.name) {
            arms.push(arm);
        }
    }
    Ok(arms)
}
