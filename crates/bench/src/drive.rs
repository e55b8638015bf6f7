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
use dualpool_machine::Device;
use dualpool_router::CostModel;
use dualpool_types::artifact::Signals;
use dualpool_types::{Arrangement, Clock, EngineId, Failure, MonotonicClock, Sampling, Time};
use dualpool_workload::{ObjectiveSettings, WorkItem};

use super::Cancel;
use super::budget::{Budget, minutes};
use super::disturbance::{Watch, limits, pause_of, worst};
use crate::Settings;

/// How long after its last arrival a run may take before it is given up.
const OVERTIME_MAX: Duration = Duration::from_secs(600);

/// How long the engines may take to give back all KV blocks once the last request ended.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// How long the fleet may take to fall idle, change its arrangement and forget its caches before a run.
const ARRANGE_MAX: Duration = Duration::from_secs(30);

/// Time between the decision to start and the first planned arrival: the submitting task is running by then.
const HEAD_START: Duration = Duration::from_millis(20);

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

/// Runs arrangements, all of them by the same rules, and remembers what went wrong in any.
pub(super) struct ArmRunner<'a> {
    fleet: &'a Fleet,
    cancel: &'a Cancel,
    progress: &'a dyn Progress,
    sample_ms: u64,
    findings: Mutex<Findings>,
}

/// What all runs so far came to, besides their recordings.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    /// What every request asks for.
    objectives: ObjectiveSettings,
    budget: Option<Budget>,
    /// When the run is over, as far as its repetitions so far tell.
    expected_end: Option<Instant>,
    /// The worst that happened on the machine in all runs so far that are not measured.
    before: Signals,
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
        ArmRunner {
            fleet,
            cancel,
            progress,
            sample_ms: settings.telemetry.sample_ms,
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

    /// Shows what there is so far.
    pub(crate) fn show(&self, text: &str) {
        self.progress.show(text);
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

    /// Serves a workload once that is not measured, and once more when the machine stood still meanwhile. `what` is the run's name for the
    /// user. The records are in the order of the workload.
    pub(crate) async fn run(
        &self,
        what: &str,
        arrangement: &Arrangement,
        repetition: u32,
        work: Work<'_>,
    ) -> Result<Recording, DriveError> {
        let (mut recording, mut signals) = self.measure(what, arrangement, repetition, work.clone()).await?;
        if let Some(pause) = pause_of(&signals, self.sample_ms) {
            self.note(format!("The machine stood still for {pause:.0} ms during {what}; that run was made again."));
            (recording, signals) = self.measure(what, arrangement, repetition, work).await?;
            if let Some(again) = pause_of(&signals, self.sample_ms) {
                self.note(format!("It stood still again, for {again:.0} ms, while {what} was repeated."));
            }
        }
        let mut findings = self.lock();
        findings.before = worst(&findings.before, &signals);
        drop(findings);
        Ok(recording)
    }

    /// Serves a workload once, whatever happens on the machine meanwhile; what does is told.
    pub(crate) async fn measure(
        &self,
        what: &str,
        arrangement: &Arrangement,
        repetition: u32,
        work: Work<'_>,
    ) -> Result<(Recording, Signals), DriveError> {
        self.progress.step(&self.with_time_left(what));
        let (recording, signals) = self.once(arrangement, repetition, &work).await?;
        self.note_drained(what, &recording);
        Ok((recording, signals))
    }

    /// `dual_pool (repetition 3), 2 min 10 s left`
    fn with_time_left(&self, what: &str) -> String {
        let findings = self.lock();
        let expected = || findings.expected_end.map(|end| ("about ", end.saturating_duration_since(Instant::now())));
        match findings.budget.map(|budget| ("at most ", budget.left())).or_else(expected) {
            Some((how, left)) => format!("{what}, {how}{} left", minutes(left)),
            None => what.to_string(),
        }
    }

    /// The run is over at that time, as far as its repetitions so far tell.
    pub(crate) fn expect_end(&self, end: Instant) {
        self.lock().expected_end = Some(end);
    }

    /// What is still no disturbance, by what happened until now.
    pub(crate) fn limits(&self) -> Signals {
        let on_processors = self.fleet.placements().iter().any(|placement| matches!(placement.device, Device::Cores(_)));
        limits(&self.lock().before, self.sample_ms, on_processors)
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

    async fn once(&self, arrangement: &Arrangement, repetition: u32, work: &Work<'_>) -> Result<(Recording, Signals), DriveError> {
        let (arm, began) = (&arrangement.name, Instant::now());
        let arranged = tokio::time::timeout(ARRANGE_MAX, self.arrange(arrangement)).await;
        let arranged = arranged.unwrap_or_else(|_| Err(anyhow!("the engines were not idle and arranged within {ARRANGE_MAX:?}")));
        arranged.map_err(|source| DriveError::Arrange { arm: arm.clone(), source })?;

        let watch = Watch::begin();
        let start = Start::soon();
        self.fleet.record(arm, repetition, start.time).await;
        let served = tokio::select! {
            served = self.serve(arm, work, start) => served,
            () = self.cancel.cancelled() => Err(DriveError::Cancelled),
        };
        // Also after a failure: the requests it dropped are over, and their blocks given back, before anyone goes on.
        let settled = self.settle(arm).await;
        let mut recording = self.fleet.recorded().await;
        let signals = watch.end(&recording, &served?);
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
        Ok((recording, signals))
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

    /// Returns how long after its planned time each request was sent.
    async fn serve(&self, arm: &str, work: &Work<'_>, start: Start) -> Result<Vec<Duration>, DriveError> {
        match work.pace {
            Pace::OpenLoop => self.open_loop(arm, work, start).await,
            Pace::OneByOne => self.one_by_one(arm, work.items).await.map(|()| Vec::new()),
        }
    }

    async fn open_loop(
        &self,
        arm: &str,
        Work { items, counted, .. }: &Work<'_>,
        start: Start,
    ) -> Result<Vec<Duration>, DriveError> {
        // Bounded by the workload; dropping the set cancels what is still running.
        let mut clients: JoinSet<u32> = JoinSet::new();
        let mut open = counted.len();
        let mut ended = |index: Option<Result<u32, JoinError>>| {
            open -= usize::from(index.is_some_and(|index| index.is_ok_and(|index| counted.contains(&index))));
            open == 0
        };
        let mut late = Vec::with_capacity(items.len());
        for item in *items {
            let at = start.instant + Duration::from(item.at);
            let due = tokio::time::sleep_until(at);
            tokio::pin!(due);
            loop {
                tokio::select! {
                    // What is due is sent before what has ended is counted.
                    biased;
                    () = &mut due => break,
                    index = clients.join_next(), if !clients.is_empty() => if ended(index) { return Ok(late) },
                }
            }
            late.push(at.elapsed());
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
        Ok(late)
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
