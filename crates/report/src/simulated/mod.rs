//! `simulation.json`: what a simulation came to, arm by arm. `docs/simulate.md` describes it for users.
//!
//! A simulation may have millions of requests, so its figures are made as they end (`Tally`), and what a plot needs is kept in as
//! many points as a plot has, whatever the length.

mod depth;
mod latency;
mod request;
mod table;
mod tally;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use dualpool_types::artifact::PerRole;
use dualpool_types::{EngineId, PolicyKind, Role};

use super::load::translated;
use super::{Curve, LoadError};

pub(super) use latency::Latencies;
pub(super) use tally::name;

pub use request::SimulatedRequest;
pub use table::table;
pub use tally::{EngineWork, Tally};

/// Its name in the folder given with `--out`.
pub const SIMULATION: &str = "simulation.json";

/// One line per request of each arm, beside `simulation.json`.
pub const SIMULATED_REQUESTS: &str = "simulated_requests.jsonl";

/// Rises when a reader of the old form would misread the new one.
pub const SIMULATION_SCHEMA: u32 = 2;

/// Holds no time of day and no time that the program took: the same seed gives the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Simulated {
    pub schema_version: u32,
    /// Always true: these figures were computed from a model, and nothing was measured.
    pub simulated: bool,
    pub dualpool: String,
    pub scenario: String,
    pub about: String,
    /// The traffic, in words.
    pub workload: String,
    pub trace: Option<Replayed>,
    pub seed: u64,
    pub decode_cost_penalty: f64,
    /// The effective settings of the router, as a run keeps its own.
    #[serde(default)]
    pub router: serde_json::Value,
    pub objectives: SimulatedObjectives,
    pub arms: Vec<SimulatedArm>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulatedObjectives {
    pub ttft_ms: f64,
    pub itl_ms: f64,
}

/// What became of a trace's rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replayed {
    pub file: String,
    pub format: String,
    pub requests: u32,
    pub clipped_requests: u32,
    pub bad_rows: u64,
    /// The first few of them, with line and reason.
    pub named: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulatedArm {
    pub name: String,
    pub policy: PolicyKind,
    pub requests: u64,
    pub done: u64,
    /// Requests turned away, by the reason's name, and those that failed otherwise, by the kind of error.
    pub rejected: BTreeMap<String, u64>,
    pub failed: BTreeMap<String, u64>,
    /// Requests that were done within both objectives: their number, their share of all requests, and how many per second.
    pub within_objectives: u64,
    pub goodput_share: Option<f64>,
    pub goodput_rps: Option<f64>,
    /// From the first arrival to the last end, in the model's time.
    pub span_s: f64,
    pub output_tokens: u64,
    pub output_tokens_per_s: Option<f64>,
    pub ttft_ms: Latency,
    /// By the role of the engine that gave the first token.
    pub ttft_ms_by_pool: BTreeMap<Role, Latency>,
    pub itl_ms: Latency,
    /// From arrival to the last token, of requests that were done.
    pub e2e_ms: Latency,
    pub queue_depth_mean: PerRole,
    /// Of each pool: seconds, and the depth there.
    pub queue_depth: BTreeMap<Role, Vec<[f64; 2]>>,
    /// Prompt tokens found in prefix caches, as a share of all that were looked up.
    pub prefix_hit_share: Option<f64>,
    /// KV moves, and those whose KV was computed again instead.
    pub handoffs: u64,
    pub recomputed: u64,
    /// What the router noted of its decisions, by kind.
    pub notes: BTreeMap<String, u64>,
    pub engines: Vec<SimulatedEngine>,
    pub cost: Option<Cost>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulatedEngine {
    pub id: EngineId,
    pub tier: String,
    /// What it was at the start.
    pub role: Role,
    /// Share of the span that it spent in steps.
    pub utilisation: Option<f64>,
    pub output_tokens: u64,
    pub prompt_tokens_computed: u64,
    /// When it died, in seconds.
    pub died_s: Option<f64>,
}

/// In the scenario's currency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub per_hour: f64,
    pub per_million_output_tokens: Option<f64>,
    pub requests_within_objectives_per_unit: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
    /// The distribution, where it is plotted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve: Option<Curve>,
}

/// Reads `simulation.json`; none when the folder has none.
pub fn load_simulation(dir: &Path) -> Result<Option<Simulated>, LoadError> {
    translated(dir, SIMULATION, "repeat the simulation, or use the dualpool version that wrote it")
}
