//! One run: an arrangement serves one workload once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use thiserror::Error;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use dualpool_fleet::Progress;
use dualpool_fleet::{Facts, Fleet, NewRequest, Recording, Reply, ReplyStream, Unsettled};
use dualpool_router::CostModel;
use dualpool_types::{Arrangement, Clock, EngineId, Failure, Micros, MonotonicClock, Sampling, Time};
use dualpool_workload::{ObjectiveSettings, WorkItem};

use super::Cancel;
use super::budget::Budget;
use crate::Settings;

/// How long after its last arrival a run may take before it is given up.
const OVERTIME_MAX: Duration = Duration::from_secs(600);

/// How long the engines may take to give back all KV blocks once the last request ended.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// How long the fleet may take to fall idle, change its arrangement and forget its caches before a run.
const ARRANGE_MAX: Duration = Duration::from_secs(30);

/// Time between the decision to start and the first planned arrival: the submitting task is running by then.
const HEAD_START: Duration = Duration::from_millis(20);

/// A machine that took no sample for this long, and for this many sample periods, stood still.
const PAUSE_MIN: Micros = Micros(1_000_000);
const PAUSE_SAMPLES_MIN: u64 = 10;

/// What one run serves.
#[derive(Clone, Debug)]
pub(super) struct Work<'a> {
    pub(super) items: &'a [WorkItem],
    /// Of these, the ones that are recorded. What comes before them fills the queues; what comes behind them keeps the queues filled, and is
    /// given up once the last of these has ended.
    pub(super) counted: Range<u32>,
    pub(super) pace: Pace,
}

impl<'a> Work<'a> {
    pub(super) fn all(items: &'a [WorkItem], pace: Pace) -> Work<'a> {
        Work { items, counted: 0..items.len() as u32, pace }
    }

    pub(crate) fn open_loop(items: &'a [WorkItem]) -> Work<'a> {
        Work::all(items, Pace::OpenLoop)
    }
}

/// How the requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Each at its planned time, however many are still running.
    OpenLoop,
    /// Each after the one before it ended, with all prefix caches reset: no request shares a step or a block with another one.
    OneByOne,
}

/// When a run begins, by both clocks that its requests go by.
#[derive(Clone, Copy, Debug)]
struct Start {
    instant: Instant,
    time: Time,
}

impl Start {
    fn soon() -> Start {
        Start { instant: Instant::now() + HEAD_START, time: MonotonicClock::new().now().plus(HEAD_START.into()) }
    }
}

#[derive(Debug, Error)]
pub(super) enum DriveError {
    #[error("cancelled")]
    Cancelled,
    #[error("arm `{arm}`: {unfinished} of {requests} requests were not over {} s after the last arrival", OVERTIME_MAX.as_secs())]
    Overtime { arm: String, unfinished: usize, requests: usize },
    #[error("arm `{arm}`: {engine} died, and with an engine less the arms cannot be compared; see its log, then run again")]
    EngineDied { arm: String, engine: EngineId },
    #[error("arm `{arm}`: {recorded} of {requests} requests were recorded")]
    Lost { arm: String, recorded: usize, requests: usize },
    #[error("arm `{arm}`: {source}")]
    Arrange { arm: String, source: anyhow::Error },
    #[error(
        "arm `{arm}`: {engine} lost its link to the KV mover, and without it the arms cannot be compared; see its log, then run again"
    )]
    KvCut { arm: String, engine: EngineId },
    #[error("arm `{arm}`: {left} {} s after the last request was over", SETTLE_MAX.as_secs())]
    Unsettled { arm: String, left: Unsettled },
    #[error(
        "the budget of {budget_s} s was over before the measurement began: these engines take longer to warm up and to be calibrated; \
         allow more with --budget"
    )]
    NoTime { budget_s: u64 },
    #[error("the router's cost model cannot be read or set: {0}")]
    Costs(anyhow::Error),
    #[error("the search's simulation failed: {0}")]
    Forecast(anyhow::Error),
    #[error(transparent)]
    Workload(anyhow::Error),
    #[error(
        "no request was completed in the calibration, so there is no load to derive a rate from; see the engines' log, or set \
         workload.rate"
    )]
    NoSaturation,
}

impl From<DriveError> for Failure {
    fn from(error: DriveError) -> Failure {
        anyhow::Error::from(error).into()
    }
}

/// The longest time between two samples of the engines. They are taken by a timer, so when it is many periods long, the whole machine
/// stood still (a paused virtual machine, a starved process), whatever arm was on.
fn longest_pause(recording: &Recording) -> Micros {
    recording.samples.windows(2).map(|pair| pair[1].at_us - pair[0].at_us).max().unwrap_or_default()
}

/// Runs arrangements, all of them by the same rules, and remembers what went wrong in any.
pub(super) struct ArmRunner<'a> {
    fleet: &'a Fleet,
    cancel: &'a Cancel,
    progress: &'a dyn Progress,
    /// When the machine stood still for this long, the run says nothing about its arm.
    pause_min: Micros,
    findings: Mutex<Findings>,
}

/// What all runs so far came to, besides their recordings.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    /// What every request asks for.
    objectives: ObjectiveSettings,
    budget: Option<Budget>,
    /// What every run starts with from now on, so that no arm builds on what the one before it taught the router.
    costs: Option<CostModel>,
    /// What each arm's router has learned in its runs since then, by arm.
    learned: BTreeMap<String, CostModel>,
    notes: Vec<String>,
    drained: BTreeMap<EngineId, DrainedRuns>,
    held_blocks: u64,
    leases_expired: u64,
    /// The longest time that a run took beyond its requests: to arrange the engines, and to settle.
    idle: Duration,
}

/// Runs in which an engine took no requests for a while, because the user had it drained.
#[derive(Clone, Debug)]
struct DrainedRuns {
    count: u32,
    first: String,
    last: String,
}

impl Findings {
    /// Engines that were drained during any of the runs: figures of fewer engines are not those of the fleet.
    pub(crate) fn drained(&self) -> Vec<EngineId> {
        self.drained.keys().copied().collect()
    }

    /// What a reader of the figures should know.
    pub(crate) fn notes(&self) -> Vec<String> {
        let drained = |(engine, DrainedRuns { count, first, last }): (&EngineId, &DrainedRuns)| {
            let runs = if *count == 1 { format!("1 run, {first}") } else { format!("{count} runs, from {first} to {last}") };
            format!("{engine} was drained and took no requests in {runs}: figures of these are not those of the whole fleet.")
        };
        self.drained.iter().map(drained).chain(self.notes.iter().cloned()).collect()
    }

    pub(crate) fn idle(&self) -> Duration {
        self.idle
    }

    /// KV blocks held after any of the runs, the most of any, and holds that nothing but their lease ended: 0 is right.
    pub(crate) fn held_after(&self) -> u64 {
        self.held_blocks + self.leases_expired
    }
}

impl<'a> ArmRunner<'a> {
    pub(crate) fn new(fleet: &'a Fleet, settings: &'a Settings, cancel: &'a Cancel, progress: &'a dyn Progress) -> ArmRunner<'a> {
        let pause_min = PAUSE_MIN.max(Micros(settings.telemetry.sample_ms * 1_000 * PAUSE_SAMPLES_MIN));
        ArmRunner {
            fleet,
            cancel,
            progress,
            pause_min,
            findings: Mutex::new(Findings { objectives: settings.objectives.clone(), ..Findings::default() }),
        }
    }

    pub(crate) fn findings(&self) -> Findings {
        self.lock().clone()
    }

    /// Notes what the reader of the figures should know.
    pub(crate) fn note(&self, text: String) {
        self.progress.note(&text);
        self.lock().notes.push(text);
    }

    fn lock(&self) -> MutexGuard<'_, Findings> {
        // Every change is one assignment, so what is seen is whole even if a thread panicked while it held the lock.
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The objectives of all requests from now on.
    pub(crate) fn set_objectives(&self, objectives: ObjectiveSettings) {
        self.lock().objectives = objectives;
    }

    pub(crate) fn objectives(&self) -> ObjectiveSettings {
        self.lock().objectives.clone()
    }

    /// From now on the run has so much time.
    pub(crate) fn begin_budget(&self, budget: Budget) {
        self.lock().budget = Some(budget);
    }

    /// The time that is left to the run; none where it may take as long as it takes.
    pub(crate) fn budget(&self) -> Option<Budget> {
        self.lock().budget
    }

    /// What the router has learned of these engines so far.
    pub(crate) async fn costs(&self) -> Result<CostModel, DriveError> {
        self.fleet.costs().await.map_err(DriveError::Costs)
    }

    /// Every run from now on starts with what the router has learned until now, as long as its arm has learned nothing of its own.
    pub(crate) async fn keep_costs(&self) -> Result<(), DriveError> {
        let costs = self.costs().await?;
        self.lock().costs = Some(costs);
        Ok(())
    }

    /// Serves a workload once, and once more when the machine stood still meanwhile. `what` is the run's name for the user. The
    /// records are in the order of the workload.
    pub(crate) async fn run(
        &self,
        what: &str,
        arrangement: &Arrangement,
        repetition: u32,
        work: Work<'_>,
    ) -> Result<Recording, DriveError> {
        self.progress.step(what);
        let recording = self.once(arrangement, repetition, &work).await?;
        let pause = longest_pause(&recording);
        if pause < self.pause_min {
            self.note_drained(what, &recording);
            return Ok(recording);
        }
        self.note(format!("The machine stood still for {pause} during {what}; that run was made again."));
        let repeated = self.once(arrangement, repetition, &work).await?;
        self.note_drained(what, &repeated);
        let again = longest_pause(&repeated);
        if again >= self.pause_min {
            self.note(format!("It stood still again, for {again}, while {what} was repeated: that pause is in the figures."));
        }
        Ok(repeated)
    }

    fn note_drained(&self, what: &str, recording: &Recording) {
        for &engine in &recording.drained {
            let mut findings = self.lock();
            let runs = findings.drained.entry(engine).or_insert_with(|| {
                self.progress.note(&format!("{engine} is drained: what is measured from {what} on is not the whole fleet."));
                DrainedRuns { count: 0, first: what.to_owned(), last: String::new() }
            });
            runs.count += 1;
            what.clone_into(&mut runs.last);
        }
    }

    async fn once(&self, arrangement: &Arrangement, repetition: u32, work: &Work<'_>) -> Result<Recording, DriveError> {
        let (arm, began) = (&arrangement.name, Instant::now());
        let arranged = tokio::time::timeout(ARRANGE_MAX, self.arrange(arrangement)).await;
        let arranged = arranged.unwrap_or_else(|_| Err(anyhow!("the engines were not idle and arranged within {ARRANGE_MAX:?}")));
        arranged.map_err(|source| DriveError::Arrange { arm: arm.clone(), source })?;

        let start = Start::soon();
        self.fleet.record(arm, repetition, start.time).await;
        let served = tokio::select! {
            served = self.serve(arm, work, start) => served,
            () = self.cancel.cancelled() => Err(DriveError::Cancelled),
        };
        // Also after a failure: the requests it dropped are over, and their blocks given back, before anyone goes on.
        let settled = self.settle(arm).await;
        let mut recording = self.fleet.recorded().await;
        served?;
        if let Some(&engine) = self.fleet.dead_engines().await.first() {
            return Err(DriveError::EngineDied { arm: arm.clone(), engine });
        }
        if let Some(&engine) = self.fleet.cut_engines().await.first() {
            return Err(DriveError::KvCut { arm: arm.clone(), engine });
        }
        settled?;
        only_counted(&mut recording, &work.counted);
        if recording.requests.len() != work.counted.len() {
            return Err(DriveError::Lost { arm: arm.clone(), recorded: recording.requests.len(), requests: work.counted.len() });
        }
        let learned = self.costs().await?;
        let busy = recording.requests.iter().map(|r| r.ended_us).max().unwrap_or_default();
        let idle = began.elapsed().saturating_sub(busy.into());
        let mut findings = self.lock();
        findings.idle = findings.idle.max(idle);
        if findings.costs.is_some() {
            findings.learned.insert(arm.clone(), learned);
        }
        drop(findings);
        Ok(recording)
    }

    async fn arrange(&self, arrangement: &Arrangement) -> anyhow::Result<()> {
        self.fleet.arrange(arrangement).await?;
        let costs = {
            let findings = self.lock();
            findings.learned.get(&arrangement.name).copied().or(findings.costs)
        };
        if let Some(costs) = costs {
            self.fleet.set_costs(costs).await?;
        }
        self.fleet.reset_prefix_caches().await
    }

    /// Lets the engines come to rest after a run that was given up.
    pub(crate) async fn cut_short(&self, arm: &str) {
        // What stays is counted, and the run as a whole fails for it.
        let _ = self.settle(arm).await;
        drop(self.fleet.recorded().await);
    }

    /// Waits until no request is in flight and no block is held. Blocks that stay are counted and no error here: what was measured
    /// stands, and the run as a whole fails for them.
    async fn settle(&self, arm: &str) -> Result<(), DriveError> {
        let failed = |source| DriveError::Arrange { arm: arm.to_string(), source };
        let left = self.fleet.settle(SETTLE_MAX).await.map_err(failed)?;
        let mut findings = self.lock();
        findings.held_blocks = findings.held_blocks.max(left.held_blocks);
        // Counted since the fleet's start.
        findings.leases_expired = left.leases_expired;
        if left.in_flight > 0 { Err(DriveError::Unsettled { arm: arm.to_string(), left }) } else { Ok(()) }
    }

    async fn serve(&self, arm: &str, work: &Work<'_>, start: Start) -> Result<(), DriveError> {
        match work.pace {
            Pace::OpenLoop => self.open_loop(arm, work, start).await,
            Pace::OneByOne => self.one_by_one(arm, work.items).await,
        }
    }

    async fn open_loop(&self, arm: &str, Work { items, counted, .. }: &Work<'_>, start: Start) -> Result<(), DriveError> {
        // Bounded by the workload; dropping the set cancels what is still running.
        let mut clients: JoinSet<u32> = JoinSet::new();
        let mut open = counted.len();
        let mut ended = |index: Option<Result<u32, JoinError>>| {
            open -= usize::from(index.is_some_and(|index| index.is_ok_and(|index| counted.contains(&index))));
            open == 0
        };
        for item in *items {
            let due = tokio::time::sleep_until(start.instant + Duration::from(item.at));
            tokio::pin!(due);
            loop {
                tokio::select! {
                    // What is due is sent before what has ended is counted.
                    biased;
                    () = &mut due => break,
                    index = clients.join_next(), if !clients.is_empty() => if ended(index) { return Ok(()) },
                }
            }
            // Submitted here and followed in a task: requests that are due together reach the router in the workload's order.
            let request = request(item, &self.objectives(), Some(start.time.plus(item.at)));
            let (replies, index) = (self.fleet.submit(request).await, item.index);
            clients.spawn(async move {
                follow(replies).await;
                index
            });
        }
        let all_over = async { while !clients.is_empty() && !ended(clients.join_next().await) {} };
        if tokio::time::timeout(OVERTIME_MAX, all_over).await.is_err() {
            return Err(DriveError::Overtime { arm: arm.to_string(), unfinished: clients.len(), requests: items.len() });
        }
        Ok(())
    }

    async fn one_by_one(&self, arm: &str, items: &[WorkItem]) -> Result<(), DriveError> {
        for (done, item) in items.iter().enumerate() {
            let over = follow(self.fleet.submit(request(item, &self.objectives(), None)).await);
            if tokio::time::timeout(OVERTIME_MAX, over).await.is_err() {
                return Err(DriveError::Overtime { arm: arm.to_string(), unfinished: items.len() - done, requests: items.len() });
            }
            // Blocks of a hand-off are given back a moment after the request's end, and a cache in use cannot be reset.
            let failed = |source| DriveError::Arrange { arm: arm.to_string(), source };
            self.settle(arm).await?;
            self.fleet.reset_prefix_caches().await.map_err(failed)?;
        }
        Ok(())
    }
}

/// Leaves of a recording the requests that count, in the workload's order, and the samples from the first one's arrival to the last one's end.
fn only_counted(recording: &mut Recording, counted: &Range<u32>) {
    recording.requests.retain(|request| counted.contains(&request.index));
    recording.requests.sort_by_key(|request| request.index);
    let first = recording.requests.iter().map(|request| request.arrived_us).min();
    let last = recording.requests.iter().map(|request| request.ended_us).max();
    if let (Some(first), Some(last), true) = (first, last, counted.start > 0) {
        recording.samples.retain(|sample| (first..=last).contains(&sample.at_us));
    }
}

/// What is asked of the fleet for this item, with the user's objectives for its class. `due`: when it is to arrive, if that is planned.
fn request(item: &WorkItem, objectives: &ObjectiveSettings, due: Option<Time>) -> NewRequest {
    NewRequest {
        prompt: item.prompt.clone(),
        max_tokens: item.max_tokens,
        ignore_eos: true,
        sampling: Sampling::default(),
        class: item.class,
        priority: item.priority,
        objectives: objectives.of(item.class),
        facts: Facts { index: item.index, arrived: due, wave: item.wave, turn: item.turn },
    }
}

/// Reads a request's replies to its end. What it was and when is in the recording.
async fn follow(mut replies: ReplyStream) {
    while let Some(reply) = replies.next().await {
        if matches!(reply, Reply::End(_)) {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::Role;
    use dualpool_types::records::EngineSample;

    #[test]
    fn the_longest_pause_is_the_widest_gap_between_samples() {
        let sample = |at_ms: u64, engine: u16| EngineSample {
            arm: "a".into(),
            repetition: 0,
            at_us: Micros(at_ms * 1000),
            engine: EngineId(engine),
            role: Role::Shared,
            waiting: 0,
            running: 0,
            kv_usage: None,
            prefix_hits: None,
            transfers_in: 0,
        };
        let samples = [0, 50, 100, 9700, 9750].into_iter().flat_map(|at| [sample(at, 0), sample(at, 1)]).collect();
        let pause = |samples| longest_pause(&Recording { samples, ..Recording::default() });
        assert_eq!(pause(samples), Micros(9_600_000));
        assert_eq!(pause(vec![]), Micros::ZERO);
    }
}
