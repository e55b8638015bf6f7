//! What the target `dynamic_router` runs.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use dualpool_types::RouterArm;

/// The workloads by the names users give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicRouterSettings {
    /// The arms, in order: policies, and `dynamic_router` for the one of `router.policy`. The first one is the reference: it runs twice
    /// (the A/A control), and output tokens are compared with its own.
    pub arms: Vec<String>,
    /// One after the other, each measured by itself. Empty = the trace where there is one, else the three synthetic ones.
    pub workloads: Vec<WorkloadKind>,
    /// Requests of `mixed`, rounds of `two_wave_imbalance`, conversations of `prefix_sessions` in a repetition.
    pub requests: u32,
    pub rounds: u32,
    pub sessions: u32,
    /// The file of the workload `trace`.
    pub trace: PathBuf,
    /// 2 replays it in half of its time.
    pub replay_speed: f64,
    /// Requests of it that are left out at its beginning, and that are replayed at most; 0 = none, and all.
    pub offset: u64,
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
            arms: RouterArm::by_default().map(|arm| arm.name().to_string()).collect(),
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
