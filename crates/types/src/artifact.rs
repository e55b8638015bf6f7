//! The artifacts of a run: `run.json` and `summary.json` (lines of the other files are in `records`). The
//! harness writes them and the report reads them; `docs/artifacts.md` and `docs/schemas` describe them for users.

use std::collections::BTreeMap;

use schemars::JsonSchema;
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
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunInfo {
    /// The version of all files in the run's folder.
    #[serde(default = "first_version")]
    pub schema_version: u32,
    /// The target that was run, such as `dual_pool`.
    pub target: String,
    /// The id of the run: its start in UTC and a suffix.
    pub id: String,
    /// When the run started: UTC, RFC 3339.
    pub started_at: String,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// When the run was gone on with, and by which command lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<RunResumed>,
    /// The machine, the engines and the versions.
    pub environment: Environment,
    /// The effective settings, as `dualpool config` prints them; docs/settings.md describes them.
    pub settings: serde_json::Value,
    /// What was served, where `workload.mix` is not it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<RunWorkload>,
    /// The arms.
    pub arms: Vec<Arrangement>,
    /// Arms that came to the very arrangement of another one, by the name of that one, which was measured for all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stands_for: BTreeMap<String, Vec<String>>,
    /// The seed of each repetition's workload, of those that were begun.
    pub seeds: Vec<u64>,
    /// After how many repetitions the planned comparisons were looked at; a verdict may have been reached at any of them.
    #[serde(default)]
    pub looks: Vec<u32>,
    /// What happened on the machine beside the repetitions, and which of them do not count for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disturbance: Option<RunDisturbance>,
    /// What idle engines did, where objectives were derived from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<RunIdle>,
    /// The objectives of the requests, given or derived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objectives: Option<SummaryObjectives>,
    /// What a repetition consists of, where it is not the whole course of its workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition: Option<RunRepetition>,
    /// The offered requests per second; null where there is no fixed rate.
    pub rate_rps: Option<f64>,
    /// The requests per second that the fleet completes when all are sent at once, while its engines are full; null where it was not measured.
    pub saturation_rps: Option<f64>,
    /// The least that a drain of the best arm came to; absent where saturation was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturation_low_rps: Option<f64>,
    /// The most that a drain of the best arm came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturation_high_rps: Option<f64>,
    /// What a workload that changes its mix consists of, where the saturation of each part was measured. Each is offered the same
    /// share of its own; the rates of the run are those of all parts together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixes: Vec<RunMix>,
    /// The load at which the arms are expected to part, where all of them did as well as can be: a forecast, which nothing was measured for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts_at: Option<PartsAt>,
    /// How long each phase of the run took.
    pub phases: Vec<PhaseTime>,
    /// What a reader of the figures should know, such as runs that were repeated because the machine was paused.
    pub notes: Vec<String>,
    /// What the search for `shared_tuned`, `dual_pool` and `best_found` had to choose from.
    pub search: Vec<SearchTrial>,
    /// Arms of the search that it did not choose for, because there was no time or no other candidate: they ran as a known point, an
    /// arrangement that is fixed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub known_points: Vec<String>,
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
    /// Whether something beside the run kept the machine busy during this repetition, so that it does not count.
    pub fn is_disturbed(&self, repetition: u32) -> bool {
        let all = self.disturbance.iter().flat_map(|disturbance| &disturbance.repetitions);
        all.filter(|of| of.repetition == repetition).any(|of| !of.disturbed_by.is_empty())
    }

    /// A run that has begun, and of which no more is known yet.
    pub fn begun(target: &str, id: &str, started_at: &str, environment: Environment) -> RunInfo {
        RunInfo {
            schema_version: RUN_SCHEMA_VERSION,
            target: target.to_string(),
            id: id.to_string(),
            started_at: started_at.to_string(),
            command: Vec::new(),
            resumed: Vec::new(),
            environment,
            settings: serde_json::Value::Null,
            workload: None,
            arms: Vec::new(),
            stands_for: BTreeMap::new(),
            seeds: Vec::new(),
            looks: Vec::new(),
            disturbance: None,
            idle: None,
            objectives: None,
            repetition: None,
            rate_rps: None,
            saturation_rps: None,
            saturation_low_rps: None,
            saturation_high_rps: None,
            mixes: Vec::new(),
            parts_at: None,
            phases: Vec::new(),
            notes: Vec::new(),
            search: Vec::new(),
            known_points: Vec::new(),
            expected: None,
            held_blocks_after: 0,
            drained: Vec::new(),
            quick: false,
            interrupted: false,
        }
    }
}

/// A run that was gone on with after its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunResumed {
    /// When: UTC, RFC 3339.
    pub at: String,
    /// The command line, word by word.
    pub command: Vec<String>,
}

/// What happened on the machine beside the repetitions of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunDisturbance {
    /// What the machine did before the measurement, in the run's own warm-up, calibration and search, or a bit more: a repetition with more of
    /// anything is disturbed.
    pub limits: Signals,
    /// The repetitions that all arms were over with.
    pub repetitions: Vec<RepetitionSignals>,
}

/// What happened beside one repetition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepetitionSignals {
    /// The repetition, counted from 0.
    pub repetition: u32,
    /// Of each signal the worst of its arms.
    #[serde(flatten)]
    pub signals: Signals,
    /// The signals over their limit. The repetition does not count where there is one, and was made again, twice at most.
    pub disturbed_by: Vec<String>,
}

/// Signs that something beside the run kept the machine busy. Null is what was not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Signals {
    /// The 99th percentile of the time between two samples of the engines, in milliseconds. A timer takes them.
    pub sample_gap_p99_ms: Option<f64>,
    /// The longest time between two samples, in milliseconds: how long the whole machine stood still.
    pub sample_gap_max_ms: Option<f64>,
    /// The 99th percentile of how long after their planned time requests were sent, in milliseconds.
    pub late_p99_ms: Option<f64>,
    /// The share of the processors' time that other programs used, 0 to 1.
    pub others: Option<f64>,
    /// The share of the processors' time that a hypervisor gave to other machines, 0 to 1.
    pub stolen: Option<f64>,
    /// The share of the time in which something waited for a processor (PSI), 0 to 1. Engines on processors wait for each other, too.
    pub pressure: Option<f64>,
    /// The share of the GPUs' samples in which heat, the power supply or another GPU held clocks down, 0 to 1.
    pub clocks_held: Option<f64>,
}

impl Signals {
    /// By their names in `run.json`.
    pub fn each(&self) -> [(&'static str, Option<f64>); 7] {
        [
            ("sample_gap_p99_ms", self.sample_gap_p99_ms),
            ("sample_gap_max_ms", self.sample_gap_max_ms),
            ("late_p99_ms", self.late_p99_ms),
            ("others", self.others),
            ("stolen", self.stolen),
            ("pressure", self.pressure),
            ("clocks_held", self.clocks_held),
        ]
    }

    /// Each signal of both, put together. None stays what neither has.
    pub fn zip(&self, other: &Signals, f: impl Fn(Option<f64>, Option<f64>) -> Option<f64>) -> Signals {
        Signals {
            sample_gap_p99_ms: f(self.sample_gap_p99_ms, other.sample_gap_p99_ms),
            sample_gap_max_ms: f(self.sample_gap_max_ms, other.sample_gap_max_ms),
            late_p99_ms: f(self.late_p99_ms, other.late_p99_ms),
            others: f(self.others, other.others),
            stolen: f(self.stolen, other.stolen),
            pressure: f(self.pressure, other.pressure),
            clocks_held: f(self.clocks_held, other.clocks_held),
        }
    }
}

/// What the engines do when they have next to nothing to do; objectives that were not given are multiples of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunIdle {
    /// The median time to first token of a short prompt that is alone on its engine, in milliseconds.
    pub ttft_short_ms: f64,
    /// The median time to first token of a long prompt that is alone on its engine, in milliseconds.
    pub ttft_long_ms: f64,
    /// The median gap between tokens of a request that is alone on its engine, in milliseconds.
    pub itl_alone_ms: f64,
    /// The median gap between tokens of four requests that decode together on each engine, in milliseconds.
    pub itl_together_ms: f64,
}

/// A forecast: a simulation, on engines that cost what the router learned of these, served the run's workload at rising loads, and at this one
/// two arms were the first time more than 5 points apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartsAt {
    /// The share of the measured saturation that was offered in the simulation.
    pub load: f64,
    /// The simulated share of requests within their objectives, by arm.
    pub shares: BTreeMap<String, f64>,
}

/// What a repetition consists of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunRepetition {
    /// The requests that count.
    pub requests: u32,
    /// Seconds of the same traffic before the first request that counts, until queues are as they stay. As much follows, at most, until the last
    /// request that counts has ended. Neither leaves records.
    pub lead_in_s: f64,
}

/// A mix that a workload which changes its mix consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunMix {
    /// The name of the mix.
    pub name: String,
    /// The number of its requests in each repetition.
    pub requests: u32,
    /// The requests per second that the fleet completes of this mix alone.
    pub saturation_rps: f64,
}

/// A workload that is none of the mixes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunWorkload {
    /// The name of the workload.
    pub name: String,
    /// How its requests arrive: `poisson`, `planned` (at times of the workload's own) or `recorded`.
    pub arrivals: String,
    /// What its own times were multiplied by to suit these engines; null where they were not.
    pub pace: Option<f64>,
}

/// Ratios that a run is compared with, and the file they are from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Expected {
    /// The file of expectations.
    pub file: String,
    /// The id of the run that was accepted.
    pub run: String,
    /// The accepted ratios.
    pub ratios: Vec<ExpectedRatio>,
}

/// A ratio of one figure of two arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExpectedRatio {
    /// The arm whose figure is the denominator.
    pub baseline: String,
    /// The arm whose figure is the numerator.
    pub candidate: String,
    /// The name of the figure, such as `ttft_ms.short.p95`.
    pub metric: String,
    /// The figure of the candidate divided by that of the baseline.
    pub ratio: f64,
    /// The lower end of the ratio's 95 % interval.
    pub ci_low: f64,
    /// The upper end of the ratio's 95 % interval.
    pub ci_high: f64,
}

/// How long a phase of the run took.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PhaseTime {
    /// The name of the phase.
    pub name: String,
    /// Its duration in microseconds.
    pub us: Micros,
}

/// One candidate of the search: an arrangement, and how it did.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SearchTrial {
    /// The arrangement that was tried.
    pub arrangement: Arrangement,
    /// Its score in simulation, on engines that cost what the router learned of these.
    pub forecast: f64,
    /// Why the forecast has no say: what its trials saw is more than two standard errors off; absent where they allow the forecast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_overruled: Option<String>,
    /// The requests it served over all rounds; 0 when it was not on the shortlist, or there was no time to try it.
    pub requests: u32,
    /// The share of its requests that were within their objectives; null when it served none.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub goodput_share: Option<f64>,
    /// The score that the search ranked by, higher is better; null when it served no request. docs/artifacts.md defines it.
    pub score: Option<f64>,
    /// The arm it was chosen for; null when it was not chosen.
    pub chosen_for: Option<String>,
}

/// The machine, the engines and the versions.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// The version of dualpool.
    pub dualpool: String,
    /// What serves: vLLM with its version, or `virtual`.
    pub backend: String,
    /// The folder of the model.
    pub model: String,
    /// The type of the model's weights, as the engines were told.
    pub dtype: String,
    /// The operating system.
    pub os: String,
    /// The name of the processor; `unknown` where the system does not tell.
    pub cpu: String,
    /// The number of hardware threads; null where the system does not tell.
    pub cores: Option<u32>,
    /// The size of the memory in bytes; null where the system does not tell.
    pub memory_bytes: Option<u64>,
    /// The GPUs, each with its number, name and memory.
    pub gpus: Vec<String>,
    /// The engines, by their ids.
    pub engines: Vec<EnvironmentEngine>,
}

/// An engine of the fleet.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentEngine {
    /// The id of the engine.
    pub id: EngineId,
    /// What it computes on: a GPU, or cores.
    pub device: String,
    /// The tokens that one of its KV blocks holds.
    pub block_size: u32,
    /// The number of its KV blocks.
    pub kv_blocks: u32,
}

/// `summary.json`: the figures. Each can be recomputed from `requests.jsonl` and `samples.jsonl`. A figure that was not measured
/// is `null`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// The version of all files in the run's folder, as in `run.json`.
    #[serde(default = "first_version")]
    pub schema_version: u32,
    /// The target that was run.
    pub target: String,
    /// The machine, the engines and the versions.
    pub environment: Environment,
    /// The mix or the workload that was served.
    #[schemars(extend("enum" = [
        "balanced", "decode_heavy", "long_context", "burst", "changing", "mixed", "two_wave_imbalance", "prefix_sessions", "trace"
    ]))]
    pub mix: String,
    /// How requests arrived: `all_upfront`, `poisson`, `planned`, `recorded`, or `one_by_one` under `--exact`.
    #[schemars(extend("enum" = ["all_upfront", "poisson", "one_by_one", "planned", "recorded"]))]
    pub arrivals: String,
    /// The offered requests per second; null where there is no fixed rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub rate_rps: Option<f64>,
    /// The number of repetitions that every arm finished; the figures are over these.
    pub repetitions: u32,
    /// The objectives of requests.
    pub objectives: SummaryObjectives,
    /// The figures of each arm.
    pub arms: Vec<ArmSummary>,
    /// The verdicts: candidates against baselines, metric by metric.
    pub comparisons: Vec<Comparison>,
    /// By arm, the control included: how many requests had the same output tokens as those of the reference arm.
    pub identical_requests: BTreeMap<String, Identical>,
    /// Whether the run was made with `--exact`.
    pub exact: bool,
    /// KV blocks still held for a hand-off after an arm's run, the most of any; anything but 0 is a fault.
    pub held_blocks_after: u64,
    /// Engines that took no requests for some of the time, because they were drained: the figures are not those of the whole fleet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub drained: Vec<EngineId>,
    /// How the run compares with what was accepted of earlier ones; absent when nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expectations: Option<Held>,
}

/// A run compared with accepted ratios.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Held {
    /// The file of expectations.
    pub file: String,
    /// The id of the run that was accepted.
    pub run: String,
    /// The number of ratios that both runs have.
    pub compared: u32,
    /// The ratios that are worse than what was accepted.
    pub behind: Vec<Behind>,
}

/// A ratio that is worse than what was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Behind {
    /// The arm whose figure is the denominator.
    pub baseline: String,
    /// The arm whose figure is the numerator.
    pub candidate: String,
    /// The name of the figure.
    pub metric: String,
    /// The ratio of this run.
    pub ratio: f64,
    /// The ratio that was accepted.
    pub accepted: f64,
    /// The lower end of the accepted ratio's 95 % interval.
    pub ci_low: f64,
    /// The upper end of the accepted ratio's 95 % interval.
    pub ci_high: f64,
}

/// The objectives of requests, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SummaryObjectives {
    /// The TTFT objective of short prompts in milliseconds.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub ttft_short_ms: f64,
    /// The TTFT objective of long prompts in milliseconds.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub ttft_long_ms: f64,
    /// The objective of the longest ITL of a request in milliseconds.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub itl_ms: f64,
}

/// How many requests gave the same output tokens in two arms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Identical {
    /// The number of requests whose tokens are the same.
    pub same: u32,
    /// The number of requests that both arms served.
    pub compared: u32,
}

/// One arm over all its repetitions. Percentiles are over the pooled samples of all repetitions; sums and means are per repetition.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ArmSummary {
    /// The name of the arm.
    pub name: String,
    /// Whether it is the A/A control: an arm like any other, named after the arm it repeats with `_control`.
    pub control: bool,
    /// Whether it takes less than it is offered: its TTFT or its backlog rises while a repetition goes on, so that its figures depend on how long
    /// that is. Null where there are too few repetitions to say, and where a workload has a course of its own.
    #[serde(default)]
    pub overloaded: Option<bool>,
    /// The number of requests over all repetitions.
    pub requests: u32,
    /// The time from the first arrival to the last end in milliseconds, mean over repetitions.
    pub completion_ms: Option<f64>,
    /// The completed requests per second of that time.
    pub throughput_rps: Option<f64>,
    /// The output tokens per second of that time.
    pub output_tokens_per_s: Option<f64>,
    /// The share of requests within their TTFT objective and with no ITL over their ITL objective, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub goodput_share: Option<f64>,
    /// The share of requests within their TTFT objective and with a mean ITL (TPOT) within their ITL objective, 0 to 1.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub tpot_share: Option<f64>,
    /// Of the completed requests per second, those that `goodput_share` counts.
    #[serde(default)]
    pub goodput_rps: Option<f64>,
    /// Of the completed requests per second, those that `tpot_share` counts.
    #[serde(default)]
    pub tpot_goodput_rps: Option<f64>,
    /// The 99th percentile over the requests of each one's longest ITL, in milliseconds.
    #[serde(default)]
    pub longest_itl_ms_p99: Option<f64>,
    /// The time from arrival to first token in milliseconds.
    pub ttft_ms: TtftSummary,
    /// The time between consecutive output tokens in milliseconds, over all gaps of all requests.
    pub itl_ms: ItlSummary,
    /// Requests waiting and running on the engines of each role, mean over time.
    pub queue_depth_mean: PerRole,
    /// The figures of each engine.
    pub engines: Vec<EngineSummary>,
    /// All KV transfers, hand-offs of prompts and live migrations together.
    pub handoffs: HandoffSummary,
    /// Of the KV transfers, those of requests that were decoding.
    #[serde(default)]
    pub live_migrations: LiveMigrationSummary,
    /// Failed requests by message.
    pub errors: Vec<ErrorCount>,
    /// What routing came to, where a router is what is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<RoutingSummary>,
}

/// What the router's decisions came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoutingSummary {
    /// The share of the prompt tokens that were in the prefix cache of the engine chosen, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub cached_share: Option<f64>,
    /// The share of the turns that went to the engine of the turn before, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub same_engine_share: Option<f64>,
    /// The depth of the deepest queue less that of the shallowest, mean over time.
    pub queue_spread_mean: Option<f64>,
    /// The figures of each engine.
    pub engines: Vec<EngineQueue>,
}

/// What a router gave one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EngineQueue {
    /// The id of the engine.
    pub id: EngineId,
    /// Requests waiting and running there, mean over time.
    pub queue_depth_mean: Option<f64>,
    /// The prompt tokens of the requests sent there, cached or not.
    pub prompt_tokens: u64,
}

/// Two quantiles, each null where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    /// The median.
    pub p50: Option<f64>,
    /// The 95th percentile.
    pub p95: Option<f64>,
}

/// The time from arrival to first token in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TtftSummary {
    /// Of all requests.
    pub overall: Quantiles,
    /// Of requests with short prompts.
    pub short: Quantiles,
    /// Of requests with long prompts.
    pub long: Quantiles,
    /// Of requests whose first token came from an engine of the prefill pool.
    pub prefill_pool: Quantiles,
    /// Of requests whose first token came from an engine of the decode pool.
    pub decode_pool: Quantiles,
    /// Of requests of the background wave, where requests come in waves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<Quantiles>,
    /// Of requests of the foreground wave, where requests come in waves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreground: Option<Quantiles>,
}

/// Three quantiles, each null where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ItlSummary {
    /// The median.
    pub p50: Option<f64>,
    /// The 95th percentile.
    pub p95: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
}

/// One figure per role; null where no engine has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PerRole {
    /// Of the prefill pool.
    pub prefill: Option<f64>,
    /// Of the decode pool.
    pub decode: Option<f64>,
    /// Of shared engines.
    pub shared: Option<f64>,
}

/// The figures of one engine in one arm.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EngineSummary {
    /// The id of the engine.
    pub id: EngineId,
    /// What it computes on.
    pub device: String,
    /// The role it had in the arm.
    pub role: Role,
    /// The mean ITL of a request's leg here in milliseconds, as the mean over its legs.
    pub tpot_ms: Option<f64>,
    /// The output tokens per second during which the engine had at least one leg.
    pub tokens_per_busy_s: Option<f64>,
    /// The number of legs it served.
    pub requests: u32,
}

/// All KV transfers of an arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HandoffSummary {
    /// The number of KV transfers.
    pub count: u32,
    /// Transfers whose KV was not copied but computed again at the destination; they are not in `count`.
    pub recomputed: u32,
    /// The bytes that were copied.
    pub bytes: u64,
    /// The median time of the mover's copy alone, in milliseconds.
    pub copy_ms_p50: Option<f64>,
    /// The 95th percentile of the time of the mover's copy alone, in milliseconds.
    pub copy_ms_p95: Option<f64>,
    /// The median time from the last output of the source leg to the first token of the destination leg, in milliseconds.
    pub total_ms_p50: Option<f64>,
    /// The 95th percentile of the time from the last output of the source leg to the first token of the destination leg, in
    /// milliseconds.
    pub total_ms_p95: Option<f64>,
}

/// Requests that went to another engine while they decoded, their KV with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveMigrationSummary {
    /// The number of live migrations.
    pub count: u32,
    /// The time from the last token of the source engine to the first one of the destination engine in milliseconds, as the client
    /// sees it.
    pub downtime_ms: Quantiles,
    /// The time of the mover's copy alone, in milliseconds.
    pub copy_ms: Quantiles,
    /// What the downtime is made of.
    #[serde(default)]
    pub stages_ms_p50: MoveStages,
    /// The median ITL of the requests that were migrated in milliseconds, for comparison.
    pub itl_ms_p50: Option<f64>,
}

/// The stages of the downtime of migrations that copied something, in the order in which they follow each other; the median of each
/// in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MoveStages {
    /// From the last token of the source engine until the destination engine fetches the KV.
    pub submit: Option<f64>,
    /// From there to the end of the copy.
    pub copy: Option<f64>,
    /// From there to the end of the step that computed the next token.
    pub step: Option<f64>,
    /// From there until the token is in dualpool.
    pub deliver: Option<f64>,
}

/// How often requests failed with one message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorCount {
    /// The message.
    pub message: String,
    /// The number of requests.
    pub count: u32,
}

/// A candidate against a baseline on one metric, from one paired value per repetition.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// The arm that the candidate is compared with.
    pub baseline: String,
    /// The arm that is judged.
    pub candidate: String,
    /// The name of the figure, such as `ttft_ms.short.p95`.
    pub metric: String,
    /// Whether it was planned before the run. All others explore: of those that they call different, one in twenty is not.
    pub planned: bool,
    /// The number of repetitions in which both arms have a value.
    pub repetitions: u32,
    /// The mean over the repetitions of the candidate's figure divided by the baseline's, as a geometric mean; null where there is none, and of
    /// shares.
    pub ratio: Option<f64>,
    /// Of shares: the mean over the repetitions of the candidate's share less the baseline's, from -1 to 1; null of all other metrics.
    pub difference: Option<f64>,
    /// The lower end of the 95 % interval of the ratio or the difference.
    pub ci_low: Option<f64>,
    /// The upper end of the 95 % interval of the ratio or the difference.
    pub ci_high: Option<f64>,
    /// How often repetitions of two identical arms come out as far apart as these or farther, from 0 to 1.
    pub p_value: Option<f64>,
    /// The smallest ratio above 1, or the smallest difference above 0, that as many repetitions which scatter as these show in four of five
    /// runs.
    pub visible: Option<f64>,
    /// What may be said.
    pub verdict: Verdict,
}

/// What a comparison came to; docs/measuring.md says when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The candidate is better.
    Better,
    /// The candidate is worse.
    Worse,
    /// The two differ by less than what matters.
    Equivalent,
    /// Neither a difference was shown nor that there is none.
    Undecided,
    /// There are too few repetitions, or too few values beyond the quantile.
    TooFew,
    /// There is nothing to compare, or one of the arms failed requests.
    NotMeasured,
}
