//! The measurement: every arm serves the same requests on the same engines, in an order that favours none, with an A/A control among them.

use std::cmp::Reverse;

use dualpool_types::artifact::RunInfo;
use dualpool_types::records::{EngineSample, RequestRecord};
use dualpool_types::{Arm, Arrangement, seeded};

use super::arms;
use super::drive::{ArmRunner, DriveError, Work};
use super::folder::{FolderError, RunFolder};
use super::run::Measurement;

/// All that the measured runs recorded.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub requests: Vec<RequestRecord>,
    pub samples: Vec<EngineSample>,
    /// Why it ended before all runs were done.
    pub stopped: Option<DriveError>,
}

/// The arms with the reference's control behind them. The reference is what `--exact` compares with, else the baseline that matters
/// most, else the first arm.
pub(super) fn with_control(mut measured: Vec<Arrangement>) -> Vec<Arrangement> {
    let named = |arm: Arm| measured.iter().find(|a| a.name == arm.name());
    if let Some(reference) = named(Arm::OneEngine).or_else(|| named(Arm::SharedTuned)).or(measured.first()) {
        measured.push(arms::control(reference));
    }
    measured
}

/// The order of `arms` arms in one of the repetitions. Over all of them together each arm stands equally early and late (to one place),
/// so that what drifts steadily weighs on all alike: forth and back where repetitions come in pairs; where their number is odd, the
/// first three make a round of their own.
fn order(arms: usize, repetition: u32, repetitions: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..arms).collect();
    // Arms at even places come first and in reverse, then the others in reverse: with the place in the first repetition that sums to
    // as many different numbers as there are arms, and the third one goes through them from the largest down.
    let second = |arm: usize| if arm.is_multiple_of(2) { arms.saturating_sub(1) / 2 - arm / 2 } else { arms - 1 - arm / 2 };
    match repetition {
        1 if repetitions % 2 == 1 => order.sort_by_key(|&arm| second(arm)),
        2 if repetitions % 2 == 1 => order.sort_by_key(|&arm| Reverse(arm + second(arm))),
        // Pairs that begin at 0, or at 3 behind the round of three.
        _ if (repetition + repetitions) % 2 == 1 && repetition > 0 => order.reverse(),
        _ => {}
    }
    order
}

/// One workload seed per repetition. They fit in 32 bits, so that every JSON reader keeps them whole.
pub(super) fn seeds(seed: u64, purpose: &str, count: u32) -> Vec<u64> {
    let mut rng = seeded(seed, purpose);
    (0..count).map(|_| u64::from(rand::Rng::random::<u32>(&mut rng))).collect()
}

/// Runs every arm of `run` for every seed of it, on the requests of `measurement`. What an arm recorded is in the folder as soon as it is over,
/// and when a run fails, what there is by then is returned.
pub(super) async fn measure(
    measurement: &dyn Measurement,
    run: &RunInfo,
    runner: &ArmRunner<'_>,
    folder: &mut RunFolder,
) -> Result<Measured, FolderError> {
    let mut measured = Measured::default();
    let repetitions = run.seeds.len();
    for (repetition, &seed) in (0u32..).zip(&run.seeds) {
        let items = match measurement.items(run, seed) {
            Ok(items) => items,
            Err(error) => return Ok(Measured { stopped: Some(error), ..measured }),
        };
        for arm in order(run.arms.len(), repetition, repetitions as u32) {
            let arm = &run.arms[arm];
            let what = format!("{} (repetition {} of {repetitions})", arm.name, repetition + 1);
            match runner.run(&what, arm, repetition, Work { items: &items, pace: measurement.effort().pace }).await {
                Ok(recording) => {
                    folder.append(&recording)?;
                    measured.requests.extend(recording.requests);
                    measured.samples.extend(recording.samples);
                }
                Err(error) => return Ok(Measured { stopped: Some(error), ..measured }),
            }
        }
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_stands_equally_early_and_late() {
        for (arms, repetitions) in (1..10).flat_map(|arms| (2..8).map(move |repetitions| (arms, repetitions))) {
            let mut places = vec![0; arms];
            for repetition in 0..repetitions {
                for (place, arm) in order(arms, repetition, repetitions).into_iter().enumerate() {
                    places[arm] += place;
                }
            }
            let (most, least) = (places.iter().max().unwrap(), places.iter().min().unwrap());
            assert!(most - least <= 1, "{arms} arms, {repetitions} repetitions: {places:?}");
        }
    }

    #[test]
    fn every_repetition_has_every_arm_once_and_the_first_is_as_asked() {
        assert_eq!(order(4, 0, 3), [0, 1, 2, 3]);
        assert_eq!(order(4, 1, 2), [3, 2, 1, 0]);
        for repetition in 0..5 {
            let mut all = order(7, repetition, 5);
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4, 5, 6]);
        }
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
