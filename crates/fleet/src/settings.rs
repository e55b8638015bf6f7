//! What is sampled and logged while a fleet serves.

use serde::{Deserialize, Serialize};

/// What watches a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileKind {
    None,
    /// This program's own timings; its ranges show in any profiler that it runs under.
    Minimal,
    /// Nsight Systems: when every copy and every kernel ran.
    Nsys,
    /// Nsight Compute: how well single kernels use the memory.
    Ncu,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// Period of the engine samples in `samples.jsonl`.
    pub sample_ms: u64,
    /// Period of the GPU samples there. The router forgets a sample after three seconds, so with a longer period it often has none.
    pub gpu_sample_ms: u64,
    /// Log filter, as `tracing` writes them: `warn`, `info,dualpool_engine=debug`.
    pub log: String,
    /// What watches a run and leaves `profile.json`: `none`, `minimal`, `nsys` or `ncu`.
    pub profile: ProfileKind,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        TelemetrySettings { sample_ms: 50, gpu_sample_ms: 100, log: "warn".into(), profile: ProfileKind::None }
    }
}
