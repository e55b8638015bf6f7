//! What a calibration of engines leaves: `engine_timing.json`. `docs/artifacts.md` describes its keys.

use serde::{Deserialize, Serialize};

use dualpool_model::VirtualSettings;
use dualpool_types::artifact::Environment;

/// The version of the file's keys.
pub const ENGINE_TIMING_SCHEMA: u32 = 2;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineTiming {
    pub schema_version: u32,
    pub target: String,
    pub id: String,
    /// UTC, RFC 3339.
    pub started_at: String,
    pub command: Vec<String>,
    pub environment: Environment,
    pub seed: u64,
    /// Steps that were recorded.
    pub steps: u64,
    /// The engine as simulations take it, with the timing that was fitted.
    pub engine: VirtualSettings,
    pub held_out: Vec<HeldOut>,
}

/// How far the timing is off the steps of one workload that the fit has not seen: |predicted - measured| / measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    pub workload: String,
    pub steps: u64,
    /// None where no step was held out.
    pub error_median: Option<f64>,
    pub error_p90: Option<f64>,
}
