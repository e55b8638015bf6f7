//! The course of a benchmark, the same for every target: checks and folders before any engine starts, then, workload by workload, the
//! target's own preparation, the measurement, the summary, and what makes the run a failed one.
//!
//! Each workload has its arms and a folder of its own. Most targets have one.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;

use dualpool_fleet::Fleet;
use dualpool_fleet::Progress;
use dualpool_report::{self as report, Artifacts, Overview, load_workloads, settle, workload_folders};
use dualpool_types::artifact::{Environment, PhaseTime, RunInfo, RunResumed, Summary, SummaryObjectives};
use dualpool_types::records::RequestRecord;
use dualpool_types::{EngineInfo, Failure, Micros};
use dualpool_workload::{ObjectiveSettings, WorkItem};

use super::budget::{Budget, REQUESTS_MIN};
use super::drive::{ArmRunner, DriveError, Pace};
use super::expectations::Expectations;
use super::faults::{exact, faults};
use super::folder::{FolderError, Identity, RunFolder};
use super::pair::{Course, Measured, Until};
use super::phases::Phases;
use super::resume::{self, Begin};
use super::{Cancel, stats};
use crate::noise;
use crate::target::{Done, OnFleet, Session, View};
use crate::{RunSettings, Settings};

/// `--quick`: of a workload that is not the same all the way, this share of its course.
const QUICK_SCALE: f64 = 0.25;

/// The share of the workload's requests for the sequential runs of `--exact`.
const EXACT_SCALE: f64 = 0.25;

/// Of a repetition, the part that an arm serves first without its counting.
const OPENING_PART: usize = 4;

/// A disturbed repetition is made again so often, at most.
const REPEATS_MAX: u32 = 2;

/// How much a run does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Effort {
    /// None: until it is decided, or time is over.
    pub(crate) repetitions: Option<u32>,
    /// The requests of a repetition, at most.
    pub(crate) requests: u32,
    pub pace: Pace,
    /// Each arm serves a few requests first that do not count, so that its router and its engines are as they stay.
    pub(crate) opens: bool,
    /// How often a disturbed repetition is made again, at most; none where it counts all the same.
    pub(crate) repeats: Option<u32>,
}

impl Effort {
    /// Of a workload with so many requests. One that is not the same all the way has its whole course in each repetition.
    pub(crate) fn of(run: &RunSettings, requests: usize, steady: bool) -> Effort {
        let all = u32::try_from(requests).unwrap_or(u32::MAX);
        Effort {
            repetitions: run.repetitions_fixed(),
            requests: match (run.exact, run.quick) {
                (true, _) => (f64::from(all) * EXACT_SCALE).ceil() as u32,
                (false, true) if steady => REQUESTS_MIN.min(all),
                (false, true) => (f64::from(all) * QUICK_SCALE).ceil() as u32,
                (false, false) if steady => run.repetition_requests.min(all),
                (false, false) => all,
            },
            pace: if run.exact { Pace::OneByOne } else { Pace::OpenLoop },
            opens: !(run.exact || run.quick),
            repeats: (run.repeat_disturbed && !run.exact && !run.quick).then_some(REPEATS_MAX),
        }
    }
}

/// The requests of one repetition, and which of them count.
pub(super) struct Repetition {
    pub(super) items: Vec<WorkItem>,
    pub(super) counted: Range<u32>,
}

impl Repetition {
    /// All of them count: the workload has a course of its own.
    pub(super) fn whole(items: Vec<WorkItem>) -> Repetition {
        Repetition { counted: 0..items.len() as u32, items }
    }

    /// Its first requests, a quarter of them, but a dozen where there are so many.
    pub(super) fn opening(mut self) -> Repetition {
        let all = self.items.len();
        self.items.truncate((all / OPENING_PART).max(REQUESTS_MIN as usize));
        Repetition::whole(self.items)
    }

    /// Of three stretches of the same traffic, each of which goes on for so long, the middle one counts.
    pub(super) fn amid(stretches: [Vec<WorkItem>; 3], spans: [Micros; 3]) -> Repetition {
        let lead_in = stretches[0].len() as u32;
        let counted = lead_in..lead_in + stretches[1].len() as u32;
        let (mut items, mut begin) = (Vec::new(), Micros::ZERO);
        for (stretch, span) in stretches.into_iter().zip(spans) {
            for item in stretch {
                items.push(WorkItem { index: items.len() as u32, at: begin + item.at, ..item });
            }
            begin += span;
        }
        Repetition { items, counted }
    }
}

/// What one workload of a run measures.
pub(super) trait Benchmark: fmt::Debug + Send + Sync {
    /// Its settings, worked out for the engines that came up.
    fn measurement<'a>(
        &'a self,
        settings: &'a Settings,
        engines: &[EngineInfo],
        runner: &ArmRunner<'_>,
    ) -> anyhow::Result<Box<dyn Measurement + 'a>>;
}

/// What is done for one workload on these engines.
#[async_trait]
pub(super) trait Measurement: Send + Sync {
    fn effort(&self) -> Effort;

    /// The first requests through the engines: first steps are slow.
    async fn warm_up(&self, runner: &ArmRunner<'_>, phases: &mut Phases<'_>) -> Result<(), DriveError>;

    /// Warms the engines up and decides on arms and rate; what it comes to stands in `run`.
    async fn arrange(&self, runner: &ArmRunner<'_>, run: &mut RunInfo, phases: &mut Phases<'_>) -> Result<(), DriveError>;

    /// Finds out what a look at the figures of a finished run asks for; it stands in `run`.
    async fn conclude(&self, _runner: &ArmRunner<'_>, _run: &mut RunInfo, _summary: &Summary) -> Result<(), DriveError> {
        Ok(())
    }

    /// The repetition with this seed.
    fn repetition(&self, run: &RunInfo, seed: u64) -> Result<Repetition, DriveError>;
}

/// What one workload of a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub dir: PathBuf,
    pub summary: Summary,
    /// The run was cancelled; the summary covers the repetitions that were finished.
    pub interrupted: bool,
    /// What makes the run a failed one, whatever its figures say.
    pub faults: Vec<String>,
}

/// A paired run of arms that passed all checks that need no engine. Its folders exist.
#[derive(Debug)]
pub struct Paired {
    settings: Settings,
    command: Vec<String>,
    dir: PathBuf,
    workloads: Vec<WorkloadRun>,
    earlier: Vec<PhaseTime>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct WorkloadRun {
    /// Its name, where the run has several.
    name: Option<&'static str>,
    folder: RunFolder,
    /// What it goes on from.
    earlier: Option<Artifacts>,
    benchmark: Box<dyn Benchmark>,
}

impl Paired {
    /// A run of one workload, whose files lie in the run's folder.
    pub(super) fn of_one(
        target: &str,
        settings: &Settings,
        command: Vec<String>,
        begin: Begin,
        benchmark: Box<dyn Benchmark>,
    ) -> Result<Paired, Failure> {
        let (folder, earlier) = resume::folder(Identity::now(target, &settings.run.out), begin)?;
        let dir = folder.dir().to_path_buf();
        Ok(Paired::new(settings, command, dir, vec![WorkloadRun { name: None, folder, earlier, benchmark }]))
    }

    /// A run of several workloads, each with a folder of its own, named after it, in that of the run.
    pub(super) fn of_workloads(
        target: &str,
        settings: &Settings,
        command: Vec<String>,
        begin: Begin,
        benchmarks: Vec<(&'static str, Box<dyn Benchmark>)>,
    ) -> Result<Paired, Failure> {
        let run = Identity::now(target, &settings.run.out);
        let mut prepared = Paired::new(settings, command, run.dir.clone(), Vec::new());
        for (name, benchmark) in benchmarks {
            match resume::folder(run.of_workload(name), begin) {
                Ok((folder, earlier)) => prepared.workloads.push(WorkloadRun { name: Some(name), folder, earlier, benchmark }),
                Err(error) => {
                    prepared.abandon();
                    return Err(error);
                }
            }
        }
        Ok(prepared)
    }

    fn new(settings: &Settings, command: Vec<String>, dir: PathBuf, workloads: Vec<WorkloadRun>) -> Paired {
        Paired { settings: settings.clone(), command, dir, workloads, earlier: Vec::new(), notes: Vec::new() }
    }

    /// Removes the folders of a run that did not begin.
    pub fn abandon(self) {
        let several = self.overview().is_some();
        self.workloads.into_iter().for_each(|workload| workload.folder.abandon());
        if several {
            // Fails, rightly, when the user's folder holds other things.
            let _ = std::fs::remove_dir(&self.dir);
        }
    }

    /// The same as `measure`, on the fleet of a session.
    pub(super) async fn outcomes(mut self, session: Session<'_>) -> Result<Vec<Outcome>, Failure> {
        self.earlier.push(PhaseTime { name: "engine start".into(), us: Micros::from(session.start) });
        self.notes.extend(session.note);
        self.measure(session.fleet, session.environment, session.progress, session.cancel).await
    }

    /// Runs the target on these engines, workload by workload. A cancelled run is no error; an engine's death is, and so is a difference under
    /// `--exact`. The artifacts of what was finished are written in any case; what was not begun leaves nothing.
    pub async fn measure(
        self,
        fleet: &Fleet,
        environment: Environment,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Vec<Outcome>, Failure> {
        let overview = self.overview();
        if let Some(overview) = &overview {
            overview.write(&self.dir).map_err(|source| FolderError::Write { path: self.dir.clone(), source })?;
        }
        let Paired { settings, command, workloads, mut earlier, notes, .. } = self;
        let expectations = Expectations::read(&settings.run, &environment)?;
        expectations.announce(progress);
        let notes = notes.into_iter().chain(noise::known(&settings.run, &environment)).collect();
        let time_for_each = Duration::from_secs(settings.run.budget_s) / workloads.len().max(1) as u32;
        let mut context =
            RunContext { settings: &settings, time_for_each, command, environment, notes, expectations, progress, cancel };
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut stopped = None;
        for workload in workloads {
            if stopped.is_some() || outcomes.last().is_some_and(|last| last.interrupted) {
                workload.folder.abandon();
                continue;
            }
            match context.run(workload, fleet, std::mem::take(&mut earlier)).await {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => stopped = Some(error),
            }
        }
        match stopped {
            Some(error) => Err(error),
            None => {
                context.expectations.accept(&outcomes, progress)?;
                Ok(outcomes)
            }
        }
    }

    fn overview(&self) -> Option<Overview> {
        let names: Vec<String> = self.workloads.iter().filter_map(|workload| workload.name.map(String::from)).collect();
        (!names.is_empty()).then(|| Overview::of(names))
    }
}

#[async_trait(?Send)]
impl OnFleet for Paired {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn run(self: Box<Self>, session: Session<'_>) -> Result<Done, Failure> {
        let dir = self.dir.clone();
        let outcomes = self.outcomes(session).await?;
        Ok(Done {
            show: Box::new(move |view| shown(&dir, view)),
            interrupted: outcomes.iter().any(|outcome| outcome.interrupted),
            faults: outcomes.into_iter().flat_map(|outcome| outcome.faults).collect(),
        })
    }

    fn abandon(self: Box<Self>) {
        Paired::abandon(*self);
    }
}

/// The run as the terminal shows it, workload by workload; as JSON its summary, and of several workloads an array of theirs.
fn shown(dir: &Path, view: &View) -> Result<String, Failure> {
    if view.json {
        return Ok(match workload_folders(dir)? {
            None => summary(dir)?,
            Some(folders) => {
                let summaries = folders.iter().map(|folder| summary(folder)).collect::<anyhow::Result<Vec<_>>>()?;
                format!("[{}]\n", summaries.join(","))
            }
        });
    }
    let workloads = load_workloads(dir)?;
    let shown = workloads.iter().map(|workload| {
        let settled = if view.settle { format!("\n{}", settle::table(workload)) } else { String::new() };
        format!("{}{settled}", report::print(workload, view.columns))
    });
    Ok(shown.collect::<Vec<_>>().join("\n\n"))
}

fn summary(dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("summary.json");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// What all workloads of a run have in common.
struct RunContext<'a> {
    settings: &'a Settings,
    /// Of the budget, the part that each workload has.
    time_for_each: Duration,
    command: Vec<String>,
    environment: Environment,
    notes: Vec<String>,
    expectations: Expectations,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl RunContext<'_> {
    async fn run(&mut self, workload: WorkloadRun, fleet: &Fleet, earlier: Vec<PhaseTime>) -> Result<Outcome, Failure> {
        let WorkloadRun { name, mut folder, earlier: before, benchmark } = workload;
        if let Some(before) = &before {
            resume::check(folder.dir(), &before.run.environment, &self.environment)?;
        }
        let runner = ArmRunner::new(fleet, self.settings, self.cancel, self.progress);
        self.notes.iter().for_each(|note| runner.note(note.clone()));
        let measurement = match benchmark.measurement(self.settings, fleet.engines(), &runner) {
            Ok(measurement) => measurement,
            Err(why) => {
                folder.abandon();
                return Err(why.into());
            }
        };
        let mut phases = Phases::new(self.progress, name);
        let repetitions = measurement.effort().repetitions;
        let until = repetitions.map_or_else(|| Until::Decided(Budget::begin(self.time_for_each)), Until::Repetitions);
        let (mut run, measured) = match before {
            Some(Artifacts { run, requests, samples, .. }) => {
                (self.gone_on(run), Measured { requests, samples, ..Measured::default() })
            }
            None => (self.run_info(&folder), Measured::default()),
        };
        let notes = std::mem::take(&mut run.notes);
        // Written before there is much to say, so that a program that follows the run knows its engines.
        folder.write_run(&run)?;
        folder.show_samples(fleet).await;

        let arranging = self.arrange(measurement.as_ref(), &runner, &mut run, &mut phases);
        let arranged = match until {
            Until::Repetitions(_) => arranging.await,
            Until::Decided(budget) => {
                runner.begin_budget(budget);
                tokio::time::timeout(budget.left(), arranging).await.unwrap_or_else(|_| Err(budget.over()))
            }
        };
        let mut measured = match arranged {
            Ok(()) => {
                // An exact run compares tokens, and has no ratios.
                run.expected = if self.settings.run.exact { None } else { self.expectations.of_workload(&run) };
                folder.write_run(&run)?;
                let seed = self.settings.workload.seed;
                let (measurement, folder) = (measurement.as_ref(), &mut folder);
                let course = Course { measurement, run: &mut run, until, runner: &runner, folder, measured, shown: false };
                course.measure(seed, &mut phases).await?
            }
            Err(stopped) => Measured { stopped: Some(stopped), ..measured },
        };

        phases.begin("summary", 0);
        folder.end_samples()?;
        let stopped = measured.stopped.take();
        let findings = runner.findings();
        run.interrupted = stopped.is_some();
        run.held_blocks_after = run.held_blocks_after.max(findings.held_after());
        run.drained = run.drained.into_iter().chain(findings.drained()).collect::<BTreeSet<_>>().into_iter().collect();
        let (summary, requests, mut run) = summarise(run, measured).await?;
        folder.write_summary(&summary)?;
        if stopped.is_none() && !self.settings.run.exact {
            // What was measured stands without it.
            if let Err(error) = measurement.conclude(&runner, &mut run, &summary).await {
                runner.note(format!("At which load the arms part was not found out: {error}."));
            }
        }
        run.notes = [notes, runner.findings().notes(), fleet.gpu_notes().await].concat();
        run.phases = [run.phases, earlier, phases.end()].concat();
        folder.write_run(&run)?;
        report::write_html(folder.dir()).map_err(anyhow::Error::from)?;
        let kept = || format!("the records are in {}", folder.dir().display());
        match stopped {
            Some(DriveError::Cancelled) => {}
            Some(error) => return Err(anyhow::Error::from(error).context(kept()).into()),
            None if self.settings.run.exact => exact(&run, &requests).with_context(kept)?,
            None => {}
        }
        let faults = faults(&summary, &requests);
        Ok(Outcome { dir: folder.dir().to_path_buf(), summary, interrupted: run.interrupted, faults })
    }

    /// Decides on arms and rate; a run that goes on has both, and its objectives.
    async fn arrange(
        &self,
        measurement: &dyn Measurement,
        runner: &ArmRunner<'_>,
        run: &mut RunInfo,
        phases: &mut Phases<'_>,
    ) -> Result<(), DriveError> {
        let Some(SummaryObjectives { ttft_short_ms, ttft_long_ms, itl_ms }) = run.objectives.filter(|_| !run.arms.is_empty())
        else {
            return measurement.arrange(runner, run, phases).await;
        };
        measurement.warm_up(runner, phases).await?;
        runner.set_objectives(ObjectiveSettings { ttft_short_ms, ttft_long_ms, itl_ms, ..self.settings.objectives.clone() });
        runner.keep_costs().await
    }

    fn gone_on(&self, run: RunInfo) -> RunInfo {
        let Identity { started_at: at, .. } = Identity::now(&run.target, Path::new(""));
        let resumed = [run.resumed.clone(), vec![RunResumed { at, command: self.command.clone() }]].concat();
        RunInfo { resumed, parts_at: None, ..run }
    }

    fn run_info(&self, folder: &RunFolder) -> RunInfo {
        RunInfo {
            command: self.command.clone(),
            // Settings are plain data with string keys: they always have a JSON form.
            settings: serde_json::to_value(self.settings).unwrap_or_default(),
            quick: self.settings.run.quick,
            ..RunInfo::begun(folder.target(), folder.id(), folder.started_at(), self.environment.clone())
        }
    }
}

/// Sorting takes a while on one core: on a thread of its own, so that nothing else waits for it.
async fn summarise(run: RunInfo, measured: Measured) -> anyhow::Result<(Summary, Vec<RequestRecord>, RunInfo)> {
    let work =
        move || stats::summarise(&run, &measured.requests, &measured.samples).map(|summary| (summary, measured.requests, run));
    Ok(tokio::task::spawn_blocking(work).await.context("the summary could not be computed")??)
}
