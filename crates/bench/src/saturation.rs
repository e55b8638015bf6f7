//! How many requests per second the fleet can take, so that `load` means the same on every machine.

use dualpool_report::measure::is_done;
use dualpool_types::Arrangement;
use dualpool_types::artifact::RunMix;
use dualpool_types::records::RequestRecord;
use dualpool_workload::WorkItem;

use super::drive::{ArmRunner, DriveError, Work};

/// Requests per second completed when all of `items` arrive at once, by the best of these arms with engines as they were started.
pub(super) async fn find(runner: &ArmRunner<'_>, arms: &[Arrangement], items: &[WorkItem]) -> Result<f64, DriveError> {
    let mut best = 0.0_f64;
    for arm in arms {
        let recording = runner.run(&arm.name, arm, 0, Work::open_loop(items)).await?;
        best = best.max(completion_rate(&recording.requests));
    }
    if best > 0.0 { Ok(round(best)) } else { Err(DriveError::NoSaturation) }
}

/// Requests per second completed when one mix follows the other.
pub(super) fn of_all(mixes: &[RunMix]) -> f64 {
    let requests: f64 = mixes.iter().map(|mix| f64::from(mix.requests)).sum();
    let seconds: f64 = mixes.iter().map(|mix| f64::from(mix.requests) / mix.saturation_rps).sum();
    round(requests / seconds)
}

fn completion_rate(requests: &[RequestRecord]) -> f64 {
    let done = requests.iter().filter(|r| is_done(r)).count();
    let end = requests.iter().map(|r| r.ended_us).max().unwrap_or_default();
    if end.0 > 0 { done as f64 / end.as_secs() } else { 0.0 }
}

/// A rate to three digits after the point: what is offered is what the artifacts say, to the last bit. It is never 0: nothing would arrive.
pub(super) fn round(rate: f64) -> f64 {
    (rate * 1e3).round().max(1.0) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_rounded_and_never_nothing() {
        assert_eq!([round(3.50671), round(1e-9)], [3.507, 0.001]);
    }

    #[test]
    fn mixes_are_served_one_after_the_other() {
        let mix = |requests, saturation_rps| RunMix { name: "balanced".into(), requests, saturation_rps };
        assert_eq!(of_all(&[mix(100, 12.345)]), 12.345);
        // 10 s and 40 s for 300 requests.
        assert_eq!(of_all(&[mix(100, 10.0), mix(200, 5.0)]), 6.0);
    }
}
