//! What the target `dynamic_router` runs.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::PolicyKind;
use dualpool_types::settings::{Problem, Rule, Section, count, described, each_once, require, rule};

/// The arm that routes by `router.policy`, whichever that is.
pub const ROUTER_ARM: &str = "dynamic_router";

/// The workloads by the names users give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadKind {
    /// Chats and long prompts, at a share of what the fleet can take.
    Mixed,
    /// A background that leaves one engine busy when requests are dealt out in turn, then a wave of chats.
    TwoWaveImbalance,
    /// Conversations, every prompt of which begins with the one before.
    PrefixSessions,
    /// The requests of `dynamic_router.trace`.
    Trace,
}

impl WorkloadKind {
    pub const SYNTHETIC: [WorkloadKind; 3] = [WorkloadKind::Mixed, WorkloadKind::TwoWaveImbalance, WorkloadKind::PrefixSessions];

    /// The name users give it, which is also its serde form.
    pub fn name(self) -> &'static str {
        match self {
            WorkloadKind::Mixed => "mixed",
            WorkloadKind::TwoWaveImbalance => "two_wave_imbalance",
            WorkloadKind::PrefixSessions => "prefix_sessions",
            WorkloadKind::Trace => "trace",
        }
    }
}

/// What the target `dynamic_router` runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicRouterSettings {
    /// Arms in order: policies that need no pools, and `dynamic_router` for the policy of `router.policy`. The first one is the
    /// reference: it runs a second time as the A/A control, and output tokens are compared with its own.
    pub arms: Vec<String>,
    /// Workloads, measured one after the other: `mixed`, `two_wave_imbalance`, `prefix_sessions`, `trace`. Empty = `trace` if
    /// `dynamic_router.trace` names a file, else the other three.
    pub workloads: Vec<WorkloadKind>,
    /// Requests of one repetition of `mixed`. `run.quick` and `run.exact` take a share of them, as of `rounds` and `sessions`.
    pub requests: u32,
    /// Rounds of one repetition of `two_wave_imbalance`.
    pub rounds: u32,
    /// Conversations of one repetition of `prefix_sessions`, of three to five turns each.
    pub sessions: u32,
    /// File of the workload `trace`: Azure LLM CSV, Mooncake JSONL or dualpool JSONL (docs/workloads.md). Empty = none.
    pub trace: PathBuf,
    /// Factor by which the trace is replayed faster than it was recorded: at 2, gaps between requests are half as long. Lengths
    /// stay.
    pub replay_speed: f64,
    /// Requests that are skipped at the beginning of the trace, in order of time.
    pub offset: u64,
    /// Requests of the trace that are replayed at most. 0 = all, up to 100,000.
    pub limit: u32,
}

impl DynamicRouterSettings {
    /// The workloads to run.
    pub fn chosen(&self) -> Vec<WorkloadKind> {
        match self.workloads.is_empty() {
            false => self.workloads.clone(),
            true if self.names_trace() => vec![WorkloadKind::Trace],
            true => WorkloadKind::SYNTHETIC.to_vec(),
        }
    }

    pub fn names_trace(&self) -> bool {
        self.trace.as_path() != Path::new("")
    }
}

impl Default for DynamicRouterSettings {
    fn default() -> Self {
        DynamicRouterSettings {
            arms: ["round_robin", "least_load", ROUTER_ARM].map(String::from).to_vec(),
            workloads: Vec::new(),
            requests: 60,
            rounds: 2,
            sessions: 14,
            trace: PathBuf::new(),
            replay_speed: 1.0,
            offset: 0,
            limit: 0,
        }
    }
}

fn is_arm(arm: &str) -> bool {
    arm == ROUTER_ARM || PolicyKind::ALL.iter().any(|policy| policy.name() == arm && !policy.needs_pools())
}

impl Section for DynamicRouterSettings {
    fn rules(&self) -> Vec<Rule> {
        vec![
            rule(
                "dynamic_router.arms",
                "at least one, each once, of policies for engines that are all alike, and dynamic_router for the one of router.policy",
                !self.arms.is_empty() && each_once(&self.arms) && self.arms.iter().all(|arm| is_arm(arm)),
            ),
            rule(
                "dynamic_router.workloads",
                "mixed, two_wave_imbalance, prefix_sessions and trace, each once; empty = all but the last",
                each_once(&self.workloads),
            ),
            count("dynamic_router.requests", self.requests),
            count("dynamic_router.rounds", self.rounds),
            count("dynamic_router.sessions", self.sessions),
            described("dynamic_router.trace", "the path of a trace, or empty"),
            rule("dynamic_router.replay_speed", "a number from 0.001 to 1000000", (1e-3..=1e6).contains(&self.replay_speed)),
        ]
    }

    fn relations(&self) -> Vec<Problem> {
        let traced = self.workloads.contains(&WorkloadKind::Trace);
        let text = "the path of a trace where dynamic_router.workloads has `trace`";
        Vec::from_iter(require(!traced || self.names_trace(), "dynamic_router.trace", text))
    }
}
