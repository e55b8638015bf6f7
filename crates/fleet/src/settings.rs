//! What is sampled and logged while a fleet serves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::Targets;

use dualpool_types::settings::{Rule, Section, count, rule};

/// What watches a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// What `telemetry.log` lets through: nothing, where it is empty. None where it cannot be read.
pub fn log_filter(text: &str) -> Option<Targets> {
    // An empty part would let everything through.
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { Some(Targets::new()) } else { parts.join(",").parse().ok() }
}

/// What is recorded and logged while a fleet serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// Milliseconds between two samples of each engine in `samples.jsonl`. A run in which no sample was taken for 1 s, or for 10
    /// periods if that is longer, counts as disturbed and is repeated once.
    pub sample_ms: u64,
    /// Milliseconds between two samples of each GPU in `samples.jsonl`. The router uses a GPU's sample for three seconds, so with a
    /// longer period it often has none.
    pub gpu_sample_ms: u64,
    /// Log filter in the syntax of `tracing`: a level, or levels by crate.
    pub log: String,
    /// What watches a run and leaves `profile.json`: `none`, `minimal` (this program's own timings), `nsys` (NVIDIA Nsight Systems:
    /// every copy and kernel) or `ncu` (NVIDIA Nsight Compute: single kernels). docs/profiling.md explains them.
    pub profile: ProfileKind,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        TelemetrySettings { sample_ms: 50, gpu_sample_ms: 100, log: "warn".into(), profile: ProfileKind::None }
    }
}

impl Section for TelemetrySettings {
    fn rules(&self) -> Vec<Rule> {
        vec![
            count("telemetry.sample_ms", self.sample_ms),
            rule("telemetry.gpu_sample_ms", "a whole number from 10 to 60000", (10..=60_000).contains(&self.gpu_sample_ms)),
            rule("telemetry.log", "a filter such as `warn` or `info,dualpool_engine=debug`", log_filter(&self.log).is_some()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::filter::LevelFilter;

    #[test]
    fn a_filter_is_a_level_or_levels_by_crate() {
        let levels = |text: &str| log_filter(text).map(|filter| filter.default_level());
        assert_eq!(levels("warn"), Some(Some(LevelFilter::WARN)));
        assert_eq!(log_filter("info, dualpool_engine=debug"), log_filter("info,dualpool_engine=debug"));
        assert!(log_filter("info,dualpool=debug").unwrap().would_enable("dualpool_engine::vllm", &tracing::Level::DEBUG));
        assert_eq!([levels(""), levels(" ,")], [Some(None); 2]);
        assert_eq!([levels("dualpool=loud"), levels("a=b=c")], [None; 2]);
    }
}
