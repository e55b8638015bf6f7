//! How many requests per second the fleet can take, so that `load` means the same on every machine.

use std::collections::BTreeMap;

use super::arms::Pools;
use super::drive::{DriveError, Driver, Work};
use crate::report::measure::is_done;
use crate::telemetry::RequestRecord;
use crate::workload::Workload;

/// The shared policies that compete; the better one's rate is the saturation.
const POLICIES: [&str; 2] = ["shared_round_robin", "shared_least_load"];

/// Requests per second completed when all arrive at once, by the best shared policy with engines as they were started.
pub(super) async fn find(
    driver: &Driver<'_>,
    pools: &Pools,
    workload: &Workload,
    vocab_size: u32,
    seed: u64,
) -> Result<f64, DriveError> {
    let items = workload.upfront().generate(vocab_size, seed, None);
    let mut best = 0.0_f64;
    for name in POLICIES {
        let recording = driver.run(name, &pools.arm(name, &BTreeMap::new()), 0, Work::open_loop(&items)).await?;
        best = best.max(completion_rate(&recording.requests));
    }
    if best > 0.0 { Ok(round(best)) } else { Err(DriveError::NoSaturation) }
}

fn completion_rate(requests: &[RequestRecord]) -> f64 {
    let done = requests.iter().filter(|r| is_done(r)).count();
    let end = requests.iter().map(|r| r.ended_us).max().unwrap_or_default();
    if end.0 > 0 { done as f64 / end.as_secs() } else { 0.0 }
}

/// A rate to three digits after the point: what is offered is what the artifacts say, to the last bit.
pub(super) fn round(rate: f64) -> f64 {
    (rate * 1e3).round() / 1e3
}
