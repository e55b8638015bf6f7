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

use schemars::JsonSchema;
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

/// What a simulation came to. It holds no time of day and no time that the program took: the same seed gives the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Simulated {
    /// The version of all files in the simulation's folder.
    pub schema_version: u32,
    /// This is always true: the figures were computed from a model, and nothing was measured.
    pub simulated: bool,
    /// The version of dualpool.
    pub dualpool: String,
    /// The name of the scenario.
    pub scenario: String,
    /// What the scenario is, in words.
    pub about: String,
    /// The traffic, in words.
    pub workload: String,
    /// What became of the trace's rows; null when no trace was replayed.
    pub trace: Option<Replayed>,
    /// The seed of the traffic and of all random choices.
    pub seed: u64,
    /// How many times as slowly as their tier says those engines decode that prefill, too.
    pub decode_cost_penalty: f64,
    /// The effective settings of the router, by their names without `router.`; docs/settings.md describes them.
    #[serde(default)]
    pub router: serde_json::Value,
    /// The objectives of all requests.
    pub objectives: SimulatedObjectives,
    /// The figures of each arm.
    pub arms: Vec<SimulatedArm>,
}

/// The objectives of all requests, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SimulatedObjectives {
    /// The TTFT objective in milliseconds.
    pub ttft_ms: f64,
    /// The objective of the longest ITL of a request in milliseconds.
    pub itl_ms: f64,
}

/// What became of a trace's rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Replayed {
    /// The file of the trace.
    pub file: String,
    /// Its format.
    pub format: String,
    /// The requests that were replayed.
    pub requests: u32,
    /// Of these, requests that were cut to fit the engines.
    pub clipped_requests: u32,
    /// Rows that are no requests and were left out.
    pub bad_rows: u64,
    /// The first few of them, with line and reason.
    pub named: Vec<String>,
}

/// The figures of one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SimulatedArm {
    /// The name of the arm.
    pub name: String,
    /// The policy that placed requests.
    pub policy: PolicyKind,
    /// The number of requests.
    pub requests: u64,
    /// The requests that were done.
    pub done: u64,
    /// The requests that were rejected, by the name of the reason.
    pub rejected: BTreeMap<String, u64>,
    /// The requests that failed otherwise, by the kind of error.
    pub failed: BTreeMap<String, u64>,
    /// The requests that were done within both objectives.
    pub within_objectives: u64,
    /// The share of the requests that were done within both objectives, 0 to 1.
    pub goodput_share: Option<f64>,
    /// The requests that were done within both objectives per second.
    pub goodput_rps: Option<f64>,
    /// The time from the first arrival to the last end in seconds, in the model's time.
    pub span_s: f64,
    /// The output tokens of all requests.
    pub output_tokens: u64,
    /// The output tokens per second.
    pub output_tokens_per_s: Option<f64>,
    /// The time from arrival to first token in milliseconds.
    pub ttft_ms: Latency,
    /// The same by the role of the engine that gave the first token.
    pub ttft_ms_by_pool: BTreeMap<Role, Latency>,
    /// The time between consecutive output tokens in milliseconds.
    pub itl_ms: Latency,
    /// The time from arrival to end in milliseconds, of requests that were done.
    pub e2e_ms: Latency,
    /// Requests waiting and running on the engines of each role, mean over time.
    pub queue_depth_mean: PerRole,
    /// The same over time, by role: seconds, and the depth then.
    pub queue_depth: BTreeMap<Role, Vec<[f64; 2]>>,
    /// Prompt tokens found in prefix caches, as a share of all that were looked up, 0 to 1.
    pub prefix_hit_share: Option<f64>,
    /// The KV transfers that copied KV.
    pub handoffs: u64,
    /// The KV transfers that failed, whose KV was computed again.
    pub recomputed: u64,
    /// The number of notes of the router, by kind.
    pub notes: BTreeMap<String, u64>,
    /// The figures of each engine.
    pub engines: Vec<SimulatedEngine>,
    /// What serving cost; null where a tier of the scenario names no cost.
    pub cost: Option<Cost>,
}

/// The figures of one engine in one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SimulatedEngine {
    /// The id of the engine.
    pub id: EngineId,
    /// The tier that it is of.
    pub tier: String,
    /// The role that it had at the start.
    pub role: Role,
    /// The share of the span that it spent in steps, 0 to 1.
    pub utilisation: Option<f64>,
    /// The output tokens it gave.
    pub output_tokens: u64,
    /// The prompt tokens it computed.
    pub prompt_tokens_computed: u64,
    /// When it died, in seconds; null when it did not.
    pub died_s: Option<f64>,
}

/// What serving cost, in the scenario's currency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// The cost of the whole fleet per hour.
    pub per_hour: f64,
    /// The cost of a million output tokens.
    pub per_million_output_tokens: Option<f64>,
    /// The requests done within both objectives per unit of cost.
    pub requests_within_objectives_per_unit: Option<f64>,
}

/// Quantiles of a latency in milliseconds, each null where there was none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// The median.
    pub p50: Option<f64>,
    /// The 95th percentile.
    pub p95: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
    /// The longest one.
    pub max: Option<f64>,
    /// The distribution, where it is plotted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve: Option<Curve>,
}

/// Reads `simulation.json`; none when the folder has none.
pub fn load_simulation(dir: &Path) -> Result<Option<Simulated>, LoadError> {
    translated(dir, SIMULATION, "repeat the simulation, or use the dualpool version that wrote it")
}
