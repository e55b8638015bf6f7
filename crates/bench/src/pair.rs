//! The measurement: every arm serves the same requests on the same engines, in an order that favours none, with an A/A control among them.

use std::time::{Duration, Instant};

use rand::seq::SliceRandom as _;

use dualpool_report::{Artifacts, REPETITIONS_MIN, complete_repetitions, provisional};
use dualpool_types::artifact::{RepetitionSignals, RunDisturbance, RunInfo, Signals};
use dualpool_types::records::{EngineSample, RequestRecord};
use dualpool_types::{Arrangement, seeded};

use super::arms;
use super::budget::{Budget, minutes};
use super::disturbance::{described, disturbed_by, worst};
use super::drive::{ArmRunner, DriveError, Work};
use super::folder::{FolderError, RunFolder};
use super::phases::Phases;
use super::run::{Measurement, Repetition};
use super::stats::{self, next_look};

/// A run that is not over by then shows what it has so far, on a terminal of this width or wider.
const PROVISIONAL_AFTER: Duration = Duration::from_secs(120);
const PROVISIONAL_COLUMNS: u16 = 80;

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

/// How many seeds were served; a repetition that was made again has that of the one before.
fn served(seeds: &[u64]) -> usize {
    seeds.chunk_by(|one, next| one == next).count()
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

/// Why a measurement does not go on.
enum Stop {
    /// What was under way does not count.
    TimeOver,
    Failed(DriveError),
    Folder(FolderError),
}

impl From<DriveError> for Stop {
    fn from(error: DriveError) -> Stop {
        Stop::Failed(error)
    }
}

impl From<FolderError> for Stop {
    fn from(error: FolderError) -> Stop {
        Stop::Folder(error)
    }
}

/// The measurement of one workload.
pub(super) struct Course<'a, 'r> {
    pub(super) measurement: &'a dyn Measurement,
    pub(super) run: &'a mut RunInfo,
    pub(super) until: Until,
    pub(super) runner: &'a ArmRunner<'r>,
    pub(super) folder: &'a mut RunFolder,
    /// What the run has already, if it goes on.
    pub(super) measured: Measured,
    /// Whether the provisional table was shown.
    pub(super) shown: bool,
}

impl Course<'_, '_> {
    /// Runs every arm repetition by repetition, and looks at the planned comparisons on the way. What an arm recorded is in the folder as soon
    /// as it is over, and when a run fails, what there is by then is returned.
    pub(super) async fn measure(mut self, workload_seed: u64, phases: &mut Phases<'_>) -> Result<Measured, FolderError> {
        match self.go(workload_seed, phases).await {
            Ok(()) => {}
            Err(Stop::TimeOver) => drop(self.look(true)),
            Err(Stop::Failed(why)) => {
                self.look(true);
                self.measured.stopped = Some(why);
            }
            Err(Stop::Folder(error)) => return Err(error),
        }
        Ok(self.measured)
    }

    async fn go(&mut self, workload_seed: u64, phases: &mut Phases<'_>) -> Result<(), Stop> {
        let arms = self.run.arms.len() as u32;
        if self.measurement.effort().opens {
            phases.begin("opening", arms);
            self.open(seeds(workload_seed, "opening", 1)[0]).await?;
        }
        phases.begin("measurement", arms * if let Until::Repetitions(all) = self.until { all } else { 0 });
        let limits = self.runner.limits();
        self.run.disturbance.get_or_insert_with(|| RunDisturbance { limits, repetitions: Vec::new() });
        let (began, mut longest) = (Instant::now(), Duration::ZERO);
        let seeds = seeds_without_end(workload_seed, "repetitions").skip(served(&self.run.seeds));
        for (done, seed) in (1..).zip(seeds) {
            longest = longest.max(self.undisturbed(done, seed, longest).await?);
            let ends = self.until.ends(done, longest);
            if let Until::Repetitions(all) = self.until {
                self.runner.expect_end((began + began.elapsed().mul_f64(f64::from(all) / f64::from(done))).into());
            }
            if self.look(ends) || ends {
                break;
            }
            self.show_provisional(self.runner.budget().map_or(began.elapsed(), |budget| budget.spent()));
        }
        Ok(())
    }

    /// A few requests through every arm that do not count: they leave its router and its engines as they stay.
    async fn open(&mut self, seed: u64) -> Result<(), Stop> {
        let opening = self.measurement.repetition(self.run, seed)?.opening();
        for arm in order(self.run.arms.len(), seed) {
            let arm = &self.run.arms[arm];
            let what = format!("{} (not counted)", arm.name);
            self.in_time(&what, arm, self.runner.run(&what, arm, 0, self.work(&opening))).await?;
        }
        Ok(())
    }

    /// The repetition with this seed, the `nth`, made again while something disturbs it and there is time. Returns how long the longest try took.
    async fn undisturbed(&mut self, nth: u32, seed: u64, mut longest: Duration) -> Result<Duration, Stop> {
        let of = if let Until::Repetitions(all) = self.until { format!(" of {all}") } else { String::new() };
        let repeats = self.measurement.effort().repeats;
        for again in 0.. {
            let (repetition, began) = (self.run.seeds.len() as u32, Instant::now());
            self.run.seeds.push(seed);
            // A run that is killed shows by it which number is taken.
            self.folder.write_run(self.run)?;
            let name = format!("repetition {nth}{of}{}", if again > 0 { ", again" } else { "" });
            let signals = self.repetition(repetition, seed, &name).await?;
            longest = longest.max(began.elapsed());
            let Some(disturbance) = &mut self.run.disturbance else { break };
            let disturbed_by = if repeats.is_some() { disturbed_by(&signals, &disturbance.limits) } else { Vec::new() };
            let why = described(&signals, &disturbance.limits);
            let disturbed = !disturbed_by.is_empty();
            disturbance.repetitions.push(RepetitionSignals { repetition, signals, disturbed_by });
            if !disturbed {
                break;
            }
            let goes_on = again < repeats.unwrap_or(0) && self.until.left() > longest;
            let then = if goes_on { "it is made again" } else { "it does not count" };
            self.runner.note(format!("The {name} was disturbed, by {why}; {then}."));
            if !goes_on {
                break;
            }
        }
        Ok(longest)
    }

    /// Every arm once. What happened on the machine meanwhile, at worst. `name`: for the user.
    async fn repetition(&mut self, number: u32, seed: u64, name: &str) -> Result<Signals, Stop> {
        let requests = self.measurement.repetition(self.run, seed)?;
        let mut signals = Signals::default();
        for arm in order(self.run.arms.len(), seed) {
            let arm = &self.run.arms[arm];
            let what = format!("{} ({name})", arm.name);
            let (recording, happened) =
                self.in_time(&what, arm, self.runner.measure(&what, arm, number, self.work(&requests))).await?;
            signals = worst(&signals, &happened);
            self.folder.append(&recording)?;
            self.measured.requests.extend(recording.requests);
            self.measured.samples.extend(recording.samples);
        }
        Ok(signals)
    }

    fn work<'w>(&self, requests: &'w Repetition) -> Work<'w> {
        let Repetition { items, counted } = requests;
        Work { items, counted: counted.clone(), pace: self.measurement.effort().pace }
    }

    /// Gives a run up when the time is over.
    async fn in_time<T>(&self, what: &str, arm: &Arrangement, run: impl Future<Output = Result<T, DriveError>>) -> Result<T, Stop> {
        match tokio::time::timeout(self.until.left(), run).await {
            Ok(ran) => Ok(ran?),
            Err(_) => {
                self.runner.cut_short(&arm.name).await;
                self.runner.note(format!("The time was over during {what}, which does not count. More time: --budget."));
                Err(Stop::TimeOver)
            }
        }
    }

    /// A first table, once, of a run that has been going on for a while.
    fn show_provisional(&mut self, running: Duration) {
        if self.shown || running < PROVISIONAL_AFTER {
            return;
        }
        let complete = complete_repetitions(self.run, &self.measured.requests);
        if complete.is_empty() {
            return;
        }
        self.shown = true;
        let requests = self.measured.requests.iter().filter(|request| complete.contains(&request.repetition)).cloned().collect();
        let samples = self.measured.samples.iter().filter(|sample| complete.contains(&sample.repetition)).cloned().collect();
        let (dir, run) = (self.folder.dir().to_path_buf(), self.run.clone());
        let artifacts = Artifacts { dir, run, summary: None, requests, samples, notes: Vec::new() };
        let table = provisional(&artifacts, PROVISIONAL_COLUMNS);
        let (done, after) = (complete.len(), minutes(running));
        self.runner.show(&format!("\nso far, after {after}: {done} of at least {REPETITIONS_MIN} repetitions\n{table}\n"));
    }

    /// Looks at the planned comparisons, if it is time to. Returns whether all are decided, of a run that is made to decide them.
    fn look(&mut self, last: bool) -> bool {
        let counted = complete_repetitions(self.run, &self.measured.requests).len() as u32;
        let last_look = self.run.looks.last().copied().unwrap_or(0);
        if counted < REPETITIONS_MIN || counted <= last_look || !(last || counted >= next_look(last_look)) {
            return false;
        }
        self.run.looks.push(counted);
        matches!(self.until, Until::Decided(_)) && stats::decided(self.run, &self.measured.requests)
    }
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
    fn a_seed_that_was_served_again_counts_once() {
        assert_eq!([&[][..], &[7], &[7, 8, 8, 8, 9]].map(served), [0, 1, 3]);
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
