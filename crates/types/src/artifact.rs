//! The artifacts of a run: `run.json` and `summary.json` (`requests.jsonl` and `samples.jsonl` hold `telemetry` records). The
//! harness writes them and the report reads them; `docs/artifacts.md` and `docs/summary.schema.json` describe them for users.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Arrangement, EngineId, Micros, Role};

/// Raised whenever a reader of the old form would misread the new one. 2: the arm `auto` is the one that adapts while it serves, and the
/// winner of the search is `best_found`. 3: several keys and names of hand-offs, samples, decisions and stages, which `report::earlier` lists.
pub const RUN_SCHEMA_VERSION: u32 = 3;

/// Of folders that do not name theirs.
fn first_version() -> u32 {
    1
}

/// `run.json`: all that is needed to understand, and to repeat, the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunInfo {
    /// Of the whole run folder.
    #[serde(default = "first_version")]
    pub schema_version: u32,
    pub target: String,
    pub id: String,
    /// UTC, RFC 3339.
    pub started_at: String,
    pub command: Vec<String>,
    pub environment: Environment,
    /// The effective settings, as `dualpool config` prints them.
    pub settings: serde_json::Value,
    /// What was served, where `workload.mix` is not it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<RunWorkload>,
    pub arms: Vec<Arrangement>,
    /// The seed of each repetition's workload.
    pub seeds: Vec<u64>,
    /// Requests per second offered, for Poisson arrivals, and the saturation they derive from where it was measured.
    pub rate_rps: Option<f64>,
    pub saturation_rps: Option<f64>,
    /// What a workload that changes its mix consists of, where the saturation of each part was measured. Each is offered the same share of
    /// its own; the rates of the run are those of all parts together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixes: Vec<RunMix>,
    /// How long each phase of the run took.
    pub phases: Vec<PhaseTime>,
    /// What a reader of the figures should know: runs that were repeated because the machine stood still.
    pub notes: Vec<String>,
    /// What the search for `shared_tuned`, `dual_pool` and `best_found` had to choose from.
    pub search: Vec<SearchTrial>,
    /// What was accepted of earlier runs on such a machine, under the same settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
    /// KV blocks still held for a hand-off after an arm's run, the most of any; anything but 0 is a fault.
    pub held_blocks_after: u64,
    /// Engines that took no requests for some of the time, because they were drained: the figures are not those of the whole fleet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drained: Vec<EngineId>,
    /// True when repetitions were reduced by `--quick`: intervals are wider.
    pub quick: bool,
    /// True when the run was stopped before all repetitions were done.
    pub interrupted: bool,
}

impl RunInfo {
    /// A run that has begun, and of which no more is known yet.
    pub fn begun(target: &str, id: &str, started_at: &str, environment: Environment) -> RunInfo {
        RunInfo {
            schema_version: RUN_SCHEMA_VERSION,
            target: target.to_string(),
            id: id.to_string(),
            started_at: started_at.to_string(),
            command: Vec::new(),
            environment,
            settings: serde_json::Value::Null,
            workload: None,
            arms: Vec::new(),
            seeds: Vec::new(),
            rate_rps: None,
            saturation_rps: None,
            mixes: Vec::new(),
            phases: Vec::new(),
            notes: Vec::new(),
            search: Vec::new(),
            expected: None,
            held_blocks_after: 0,
            drained: Vec::new(),
            quick: false,
            interrupted: false,
        }
    }
}

/// A mix that a workload which changes its mix consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunMix {
    pub name: String,
    /// In each repetition.
    pub requests: u32,
    /// Requests per second that the fleet completes of this mix alone.
    pub saturation_rps: f64,
}

/// A workload that is none of the mixes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunWorkload {
    pub name: String,
    /// How its requests arrive: `poisson`, `planned` (at times of the workload's own) or `recorded`.
    pub arrivals: String,
    /// What its own times were multiplied by to suit these engines.
    pub pace: Option<f64>,
}

/// Ratios that a run is held against, and the file they are from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    pub file: String,
    /// The run that was accepted.
    pub run: String,
    pub ratios: Vec<ExpectedRatio>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpectedRatio {
    pub baseline: String,
    pub candidate: String,
    pub metric: String,
    pub ratio: f64,
    pub ci_low: f64,
    pub ci_high: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PhaseTime {
    pub name: String,
    pub us: Micros,
}

/// One candidate of the search: an arrangement and how it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SearchTrial {
    pub arrangement: Arrangement,
    /// Its score in simulation, on engines that cost what the router learned of these.
    pub forecast: f64,
    /// Requests it served over all rounds; 0 when it was not on the shortlist, or there was no time to try it.
    pub requests: u32,
    pub goodput_share: Option<f64>,
    /// The score the search ranked by, higher is better; documented in `search` of the benchmarks.
    pub score: Option<f64>,
    pub chosen_for: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Environment {
    pub dualpool: String,
    pub backend: String,
    pub model: String,
    pub dtype: String,
    pub os: String,
    pub cpu: String,
    /// None where the system does not tell; so is the memory.
    pub cores: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub gpus: Vec<String>,
    pub engines: Vec<EnvironmentEngine>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnvironmentEngine {
    pub id: EngineId,
    pub device: String,
    pub block_size: u32,
    pub kv_blocks: u32,
}

/// `summary.json`: the figures. Each can be recomputed from `requests.jsonl` and `samples.jsonl`. A figure that was not measured
/// is `null`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Of the whole run folder, as in `run.json`.
    #[serde(default = "first_version")]
    pub schema_version: u32,
    pub target: String,
    pub environment: Environment,
    pub mix: String,
    pub arrivals: String,
    pub rate_rps: Option<f64>,
    pub repetitions: u32,
    pub objectives: SummaryObjectives,
    pub arms: Vec<ArmSummary>,
    pub comparisons: Vec<Comparison>,
    /// Share of requests whose output tokens equal the reference arm's, per arm and for the A/A control.
    pub identical_requests: BTreeMap<String, Identical>,
    pub exact: bool,
    /// KV blocks still held for a hand-off after an arm's run, the most of any; anything but 0 is a fault.
    pub held_blocks_after: u64,
    /// Engines that took no requests for some of the time, because they were drained: the figures are not those of the whole fleet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drained: Vec<EngineId>,
    /// How the run stands to what was accepted of earlier ones; not there when nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expectations: Option<Held>,
}

/// A run held against accepted ratios.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    pub file: String,
    pub run: String,
    /// Ratios that both runs have.
    pub compared: u32,
    pub behind: Vec<Behind>,
}

/// A ratio that is worse than what was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Behind {
    pub baseline: String,
    pub candidate: String,
    pub metric: String,
    pub ratio: f64,
    /// What was accepted, with its interval.
    pub accepted: f64,
    pub ci_low: f64,
    pub ci_high: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SummaryObjectives {
    pub ttft_short_ms: f64,
    pub ttft_long_ms: f64,
    pub itl_ms: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identical {
    pub same: u32,
    pub compared: u32,
}

/// One arm over all its repetitions. Percentiles are over the pooled samples of all repetitions; sums and means are per repetition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArmSummary {
    pub name: String,
    /// The A/A control is an arm like any other, named after the arm it repeats with `_control`.
    pub control: bool,
    pub requests: u32,
    pub completion_ms: Option<f64>,
    pub throughput_rps: Option<f64>,
    pub output_tokens_per_s: Option<f64>,
    /// Share of requests within their TTFT objective and with no ITL over their ITL objective.
    pub goodput_share: Option<f64>,
    pub ttft_ms: TtftSummary,
    pub itl_ms: ItlSummary,
    pub queue_depth_mean: PerRole,
    pub engines: Vec<EngineSummary>,
    pub handoffs: HandoffSummary,
    #[serde(default)]
    pub live_migrations: LiveMigrationSummary,
    pub errors: Vec<ErrorCount>,
    /// Where a router is what is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<RoutingSummary>,
}

/// What the router's decisions came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoutingSummary {
    /// Share of the prompt tokens that were in the prefix cache of the engine chosen.
    pub cached_share: Option<f64>,
    /// Share of the turns that went to the engine of the turn before.
    pub same_engine_share: Option<f64>,
    /// Deepest queue less shallowest, mean over time.
    pub queue_spread_mean: Option<f64>,
    pub engines: Vec<EngineQueue>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineQueue {
    pub id: EngineId,
    /// Waiting and running, mean over time.
    pub queue_depth_mean: Option<f64>,
    /// Of the requests sent here, cached or not.
    pub prompt_tokens: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
}

/// `prefill_pool` and `decode_pool`: requests whose first token came from an engine of that pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TtftSummary {
    pub overall: Quantiles,
    pub short: Quantiles,
    pub long: Quantiles,
    pub prefill_pool: Quantiles,
    pub decode_pool: Quantiles,
    /// By wave, where requests come in waves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<Quantiles>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreground: Option<Quantiles>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ItlSummary {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PerRole {
    pub prefill: Option<f64>,
    pub decode: Option<f64>,
    pub shared: Option<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineSummary {
    pub id: EngineId,
    pub device: String,
    pub role: Role,
    /// Mean over the requests that decoded here of each one's mean ITL.
    pub tpot_ms: Option<f64>,
    /// Output tokens per second during which the engine had at least one leg.
    pub tokens_per_busy_s: Option<f64>,
    /// Legs served.
    pub requests: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HandoffSummary {
    pub count: u32,
    /// Hand-offs whose KV was not moved but computed again where it was wanted; not in `count`.
    pub recomputed: u32,
    pub bytes: u64,
    /// The mover's copy alone.
    pub copy_ms_p50: Option<f64>,
    pub copy_ms_p95: Option<f64>,
    /// From the last output of the prefill leg to the first token of the decode leg.
    pub total_ms_p50: Option<f64>,
    pub total_ms_p95: Option<f64>,
}

/// Requests that went to another engine while they decoded, their KV with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LiveMigrationSummary {
    pub count: u32,
    /// From the last token before the move to the first one after it, as the client sees it.
    pub downtime_ms: Quantiles,
    /// The mover's copy alone.
    pub copy_ms: Quantiles,
    /// What the downtime is made of.
    #[serde(default)]
    pub stages_ms_p50: MoveStages,
    /// The median ITL of the requests that moved, for comparison.
    pub itl_ms_p50: Option<f64>,
}

/// The downtime of moves that copied something, in stages that follow each other; of each the median.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MoveStages {
    /// From the last token there to the other engine's word that it wants the KV.
    pub submit: Option<f64>,
    /// To the end of the copy.
    pub copy: Option<f64>,
    /// To the end of the step that computed the next token.
    pub step: Option<f64>,
    /// To the token being here.
    pub deliver: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorCount {
    pub message: String,
    pub count: u32,
}

/// A candidate against a baseline on one metric: `ratio` = candidate / baseline with its paired bootstrap interval (95 %).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    pub baseline: String,
    pub candidate: String,
    /// Such as `ttft_ms.short.p95`.
    pub metric: String,
    pub ratio: Option<f64>,
    pub ci_low: Option<f64>,
    pub ci_high: Option<f64>,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Better,
    Worse,
    NoDifferenceShown,
    /// Not enough samples on one side.
    NotMeasured,
}
