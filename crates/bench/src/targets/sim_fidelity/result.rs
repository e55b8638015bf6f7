//! What a comparison leaves: `sim_fidelity.json`. `docs/artifacts.md` describes its keys.

use serde::{Deserialize, Serialize};

use dualpool_model::VirtualSettings;
use dualpool_types::PolicyKind;
use dualpool_types::artifact::Environment;

use crate::targets::engine_timing::HeldOut;

/// The version of the file's keys.
pub const SIM_FIDELITY_SCHEMA: u32 = 2;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimFidelity {
    pub schema_version: u32,
    pub target: String,
    pub id: String,
    /// UTC, RFC 3339.
    pub started_at: String,
    pub command: Vec<String>,
    pub environment: Environment,
    pub seed: u64,
    /// The simulated engine, with the timing that was fitted.
    pub engine: VirtualSettings,
    pub held_out: Vec<HeldOut>,
    pub figures: Vec<Figure>,
    pub summary: Vec<Summary>,
    pub notes: Vec<String>,
}

/// One figure of one workload under one policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    pub workload: String,
    pub policy: PolicyKind,
    /// `ttft_ms`, `itl_ms` or `e2e_ms`.
    pub metric: String,
    pub quantile: f64,
    pub measured: f64,
    pub simulated: f64,
}

impl Figure {
    /// (simulated - measured) / measured.
    pub fn error(&self) -> f64 {
        self.simulated / self.measured - 1.0
    }
}

/// How far simulations are off by one metric and quantile: |error| over all cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub metric: String,
    pub quantile: f64,
    pub error_median: f64,
    pub error_max: f64,
}
