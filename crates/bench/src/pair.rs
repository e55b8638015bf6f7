//! The measurement: every arm serves the same requests on the same engines, in an order that favours none, with an A/A control among them.

use std::time::{Duration, Instant};

use rand::seq::SliceRandom as _;

use dualpool_report::REPETITIONS_MIN;
use dualpool_types::artifact::RunInfo;
use dualpool_types::records::{EngineSample, RequestRecord};
use dualpool_types::{Arrangement, seeded};

use super::arms;
use super::budget::Budget;
use super::drive::{ArmRunner, DriveError, Work};
use super::folder::{FolderError, RunFolder};
use super::run::{Measurement, Repetition};
use super::stats::{self, next_look};

/// All that the measured runs recorded.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub requests: Vec<RequestRecord>,
    pub samples: Vec<EngineSample>,
    /// Why it ended before all runs were done.
    pub stopped: Option<DriveError>,
}

/// The arms with the reference's control behind them.
pub(super) fn with_control(mut measured: Vec<Arrangement>) -> Vec<Arrangement> {
    if let Some(reference) = arms::reference(&measured) {
        measured.push(arms::control(reference));
    }
    measured
}

/// The order of the arms in a repetition, drawn at random: no arm is always early, late or behind the same other one.
fn order(arms: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..arms).collect();
    order.shuffle(&mut seeded(seed, "order"));
    order
}

/// One workload seed per repetition. They fit in 32 bits, so that every JSON reader keeps them whole.
pub(super) fn seeds(seed: u64, purpose: &str, count: u32) -> Vec<u64> {
    seeds_without_end(seed, purpose).take(count as usize).collect()
}

/// The same without an end.
pub(super) fn seeds_without_end(seed: u64, purpose: &str) -> impl Iterator<Item = u64> {
    let mut rng = seeded(seed, purpose);
    std::iter::repeat_with(move || u64::from(rand::Rng::random::<u32>(&mut rng)))
}

/// How long a measurement goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// So many repetitions.
    Repetitions(u32),
    /// All planned comparisons are decided, or the next repetition would not be over in time.
    Decided(Budget),
}

impl Until {
    /// Whether it ends after so many repetitions, the longest of which took so long.
    fn ends(self, done: u32, longest: Duration) -> bool {
        match self {
            Until::Repetitions(all) => done >= all,
            Until::Decided(budget) => budget.left() < longest,
        }
    }

    fn left(self) -> Duration {
        match self {
            Until::Repetitions(_) => Duration::MAX,
            Until::Decided(budget) => budget.left(),
        }
    }
}

/// Runs every arm of `run` repetition by repetition, on the requests of `measurement`, and looks at the planned comparisons on the way. What an
/// arm recorded is in the folder as soon as it is over, and when a run fails, what there is by then is returned.
pub(super) async fn measure(
    measurement: &dyn Measurement,
    run: &mut RunInfo,
    workload_seed: u64,
    until: Until,
    runner: &ArmRunner<'_>,
    folder: &mut RunFolder,
) -> Result<Measured, FolderError> {
    let mut measured = Measured::default();
    let mut longest = Duration::ZERO;
    for (repetition, seed) in (0..).zip(seeds_without_end(workload_seed, "repetitions")) {
        let began = Instant::now();
        run.seeds.push(seed);
        let Repetition { items, counted } = match measurement.repetition(run, seed) {
            Ok(repetition) => repetition,
            Err(error) => return Ok(Measured { stopped: Some(error), ..measured }),
        };
        for arm in order(run.arms.len(), seed) {
            let arm = &run.arms[arm];
            let of = if let Until::Repetitions(all) = until { format!(" of {all}") } else { String::new() };
            let what = format!("{} (repetition {}{of})", arm.name, repetition + 1);
            let work = Work { items: &items, counted: counted.clone(), pace: measurement.effort().pace };
            let Ok(ran) = tokio::time::timeout(until.left(), runner.run(&what, arm, repetition, work)).await else {
                runner.cut_short(&arm.name).await;
                runner.note(format!("The time was over during {what}, which does not count. More time: --budget."));
                return Ok(measured);
            };
            match ran {
                Ok(recording) => {
                    folder.append(&recording)?;
                    measured.requests.extend(recording.requests);
                    measured.samples.extend(recording.samples);
                }
                Err(error) => return Ok(Measured { stopped: Some(error), ..measured }),
            }
        }
        longest = longest.max(began.elapsed());
        let (done, last_look) = (repetition + 1, run.looks.last().copied().unwrap_or(0));
        let mut ends = until.ends(done, longest);
        if done >= REPETITIONS_MIN && (ends || done >= next_look(last_look)) {
            run.looks.push(done);
            ends |= matches!(until, Until::Decided(_)) && stats::decided(run, &measured.requests);
        }
        if ends {
            break;
        }
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_runs_once_in_an_order_that_the_seed_decides() {
        for seed in 0..20 {
            let mut all = order(7, seed);
            assert_eq!(all, order(7, seed));
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4, 5, 6]);
        }
        let first: std::collections::BTreeSet<usize> = (0..100).map(|seed| order(7, seed)[0]).collect();
        assert_eq!(first.len(), 7, "each is first at times");
    }

    #[test]
    fn seeds_differ_between_repetitions_and_purposes() {
        let measured = seeds(1, "repetitions", 3);
        assert_eq!(measured, seeds(1, "repetitions", 3));
        let mut all = [measured, seeds(1, "search", 3), seeds(2, "repetitions", 3)].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 9);
    }
}
