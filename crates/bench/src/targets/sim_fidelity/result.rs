//! What a comparison leaves: `sim_fidelity.json`. `docs/artifacts.md` describes its keys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_model::VirtualSettings;
use dualpool_types::PolicyKind;
use dualpool_types::artifact::Environment;

use crate::targets::engine_timing::HeldOut;

/// The version of the file's keys.
pub const SIM_FIDELITY_SCHEMA: u32 = 2;

/// How far simulations are off the engines they simulate.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SimFidelity {
    /// The version of the document.
    pub schema_version: u32,
    /// The target that was run.
    pub target: String,
    /// The id of the run: its start in UTC and a suffix.
    pub id: String,
    /// When the run started: UTC, RFC 3339.
    pub started_at: String,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// The machine, the engines and the versions.
    pub environment: Environment,
    /// The seed of all random choices.
    pub seed: u64,
    /// The simulated engine, with the timing that was fitted.
    pub engine: VirtualSettings,
    /// How far the timing is off steps that the fit has not seen, by workload.
    pub held_out: Vec<HeldOut>,
    /// Figures of the engines and of the simulation, side by side.
    pub figures: Vec<Figure>,
    /// How far simulations are off, by metric and quantile.
    pub summary: Vec<Summary>,
    /// What a reader of the figures should know, such as a machine that was paused.
    pub notes: Vec<String>,
}

/// One figure of one workload under one policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// The workload.
    pub workload: String,
    /// The policy that placed requests.
    pub policy: PolicyKind,
    /// The metric: `ttft_ms`, `itl_ms` or `e2e_ms`.
    pub metric: String,
    /// The quantile, 0 to 1.
    pub quantile: f64,
    /// The figure of the engines in milliseconds.
    pub measured: f64,
    /// The figure of the engines when they served the same a second time, in milliseconds.
    pub measured_again: f64,
    /// The figure of the simulation in milliseconds.
    pub simulated: f64,
}

impl Figure {
    /// (simulated - measured) / measured.
    pub fn error(&self) -> f64 {
        self.simulated / self.measured - 1.0
    }

    /// (measured again - measured) / measured: what chance alone comes to.
    pub fn floor(&self) -> f64 {
        self.measured_again / self.measured - 1.0
    }
}

/// How far simulations are off by one metric and quantile, and how far the engines are off themselves: |error| over all cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The metric: `ttft_ms`, `itl_ms` or `e2e_ms`.
    pub metric: String,
    /// The quantile, 0 to 1.
    pub quantile: f64,
    /// The median of the errors.
    pub error_median: f64,
    /// The greatest of the errors.
    pub error_max: f64,
    /// The median of what the engines' second serving is off their first: no simulation can be expected to be nearer than this.
    pub floor_median: f64,
    /// The greatest of these.
    pub floor_max: f64,
}
