//! What a calibration of engines leaves: `engine_timing.json`. `docs/artifacts.md` describes its keys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_model::VirtualSettings;
use dualpool_types::artifact::Environment;

/// The version of the file's keys.
pub const ENGINE_TIMING_SCHEMA: u32 = 2;

/// What the steps of an engine cost, as simulations take it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineTiming {
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
    /// The number of steps that were recorded.
    pub steps: u64,
    /// The engine as simulations take it, with the timing that was fitted.
    pub engine: VirtualSettings,
    /// How far the timing is off steps that the fit has not seen, by workload.
    pub held_out: Vec<HeldOut>,
}

/// How far the timing is off the steps of one workload that the fit has not seen: |predicted - measured| / measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// The workload.
    pub workload: String,
    /// The number of steps that were held out.
    pub steps: u64,
    /// The median of the errors; null where no step was held out.
    pub error_median: Option<f64>,
    /// The 90th percentile of the errors; null where no step was held out.
    pub error_p90: Option<f64>,
}
