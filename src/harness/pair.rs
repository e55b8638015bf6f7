//! The measurement: every arm serves the same requests on the same engines, in alternating order, with an A/A control among them.

use super::Progress;
use super::arms::{self, ONE_ENGINE};
use super::drive::{DriveError, Driver, Pace, Run};
use super::folder::{FolderError, RunFolder};
use crate::core::{Micros, seeded};
use crate::report::RunInfo;
use crate::router::Arrangement;
use crate::telemetry::{EngineSample, RequestRecord};
use crate::workload::Workload;

/// All that the measured runs recorded.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub requests: Vec<RequestRecord>,
    pub samples: Vec<EngineSample>,
    /// The most KV blocks that were held after any arm's run; 0 is right.
    pub held_blocks: u64,
    pub notes: Vec<String>,
    /// Why it ended before all runs were done.
    pub stopped: Option<DriveError>,
}

/// The arms with the reference's control behind them. The reference is what `--exact` compares with, else the baseline that matters
/// most, else the first arm.
pub(super) fn with_control(mut measured: Vec<Arrangement>) -> Vec<Arrangement> {
    let named = |name| measured.iter().find(|a| a.name == name);
    if let Some(reference) = named(ONE_ENGINE).or_else(|| named("shared_tuned")).or(measured.first()) {
        measured.push(arms::control(reference));
    }
    measured
}

/// The order of the arms in one repetition: forth, then back. What drifts steadily then weighs on both ends alike, and the control
/// stands once far after its arm and once far before it.
fn order<T>(arms: &[T], repetition: u32) -> Box<dyn Iterator<Item = &T> + '_> {
    if repetition.is_multiple_of(2) { Box::new(arms.iter()) } else { Box::new(arms.iter().rev()) }
}

/// One workload seed per repetition. They fit in 32 bits, so that every JSON reader keeps them whole.
pub(super) fn seeds(seed: u64, purpose: &str, count: u32) -> Vec<u64> {
    let mut rng = seeded(seed, purpose);
    (0..count).map(|_| u64::from(rand::Rng::random::<u32>(&mut rng))).collect()
}

/// What is measured: the arms of `run`, on the workloads of its seeds.
pub(super) struct Measurement<'a> {
    pub run: &'a RunInfo,
    pub workload: &'a Workload,
    pub vocab_size: u32,
    pub pace: Pace,
    /// When the machine stood still for this long, the run says nothing about its arm, and is made again, once.
    pub pause_min: Micros,
}

impl Measurement<'_> {
    /// Runs every arm for every seed. What an arm recorded is in the folder as soon as it is over, and when a run fails, what there
    /// is by then is returned.
    pub async fn all(&self, driver: &Driver<'_>, folder: &mut RunFolder, progress: &dyn Progress) -> Result<Measured, FolderError> {
        let mut measured = Measured::default();
        let repetitions = self.run.seeds.len();
        for (repetition, &seed) in (0u32..).zip(&self.run.seeds) {
            let items = self.workload.generate(self.vocab_size, seed, self.run.rate_rps);
            for arm in order(&self.run.arms, repetition) {
                let name = format!("{} (repetition {} of {repetitions})", arm.name, repetition + 1);
                progress.step(&name);
                let mut finished = driver.run(arm, repetition, &items, self.pace).await;
                if let Some(pause) = finished.as_ref().ok().map(Run::longest_pause).filter(|pause| *pause >= self.pause_min) {
                    let note = format!("The machine stood still for {pause} during {name}; that run was made again.");
                    progress.note(&note);
                    measured.notes.push(note);
                    finished = driver.run(arm, repetition, &items, self.pace).await;
                }
                match finished {
                    Ok(finished) => measured.add(finished, folder)?,
                    Err(error) => {
                        measured.stopped = Some(error);
                        return Ok(measured);
                    }
                }
            }
        }
        Ok(measured)
    }
}

impl Measured {
    fn add(&mut self, finished: Run, folder: &mut RunFolder) -> Result<(), FolderError> {
        folder.append(&finished.recording)?;
        self.requests.extend(finished.recording.requests);
        self.samples.extend(finished.recording.samples);
        self.held_blocks = self.held_blocks.max(finished.held_blocks);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_alternate_and_the_control_changes_sides() {
        let arms = ["a", "b", "c", "a_control"];
        assert_eq!(order(&arms, 0).copied().collect::<Vec<_>>(), ["a", "b", "c", "a_control"]);
        assert_eq!(order(&arms, 1).copied().collect::<Vec<_>>(), ["a_control", "c", "b", "a"]);
        assert_eq!(order(&arms, 2).copied().collect::<Vec<_>>(), ["a", "b", "c", "a_control"]);
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
