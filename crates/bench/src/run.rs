//! The course of a benchmark, the same for every target: checks and folders before any engine starts, then, workload by workload, the
//! target's own preparation, the measurement, the summary, and what makes the run a failed one.
//!
//! Each workload has its arms and a folder of its own. Most targets have one.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;

use dualpool_fleet::Fleet;
use dualpool_fleet::Progress;
use dualpool_report::{self as report, Overview, load_workloads, settle, workload_folders};
use dualpool_types::artifact::{Environment, PhaseTime, RunInfo, Summary};
use dualpool_types::records::RequestRecord;
use dualpool_types::{EngineInfo, Failure, Micros};
use dualpool_workload::WorkItem;

use super::budget::{Budget, REQUESTS_MIN};
use super::drive::{ArmRunner, DriveError, Pace};
use super::expectations::Expectations;
use super::faults::{exact, faults};
use super::folder::{FolderError, Identity, RunFolder};
use super::pair::{self, Measured, Until};
use super::phases::Phases;
use super::{Cancel, stats};
use crate::target::{Done, OnFleet, Session, View};
use crate::{RunSettings, Settings};

/// `--quick`: of a workload that is not the same all the way, this share of its course.
const QUICK_SCALE: f64 = 0.25;

/// The share of the workload's requests for the sequential runs of `--exact`.
const EXACT_SCALE: f64 = 0.25;

/// How much a run does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Effort {
    /// None: until it is decided, or time is over.
    pub(crate) repetitions: Option<u32>,
    /// The requests of a repetition, at most.
    pub(crate) requests: u32,
    pub pace: Pace,
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

    /// Warms the engines up and decides on arms and rate; what it comes to stands in `run`.
    async fn arrange(&self, runner: &ArmRunner<'_>, run: &mut RunInfo, phases: &mut Phases<'_>) -> Result<(), DriveError>;

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
    benchmark: Box<dyn Benchmark>,
}

impl Paired {
    /// A run of one workload, whose files lie in the run's folder.
    pub(super) fn of_one(
        target: &str,
        settings: &Settings,
        command: Vec<String>,
        benchmark: Box<dyn Benchmark>,
    ) -> Result<Paired, FolderError> {
        let folder = RunFolder::create(Identity::now(target, &settings.run.out))?;
        let dir = folder.dir().to_path_buf();
        Ok(Paired::new(settings, command, dir, vec![WorkloadRun { name: None, folder, benchmark }]))
    }

    /// A run of several workloads, each with a folder of its own, named after it, in that of the run.
    pub(super) fn of_workloads(
        target: &str,
        settings: &Settings,
        command: Vec<String>,
        benchmarks: Vec<(&'static str, Box<dyn Benchmark>)>,
    ) -> Result<Paired, FolderError> {
        let run = Identity::now(target, &settings.run.out);
        let mut prepared = Paired::new(settings, command, run.dir.clone(), Vec::new());
        for (name, benchmark) in benchmarks {
            match RunFolder::create(run.of_workload(name)) {
                Ok(folder) => prepared.workloads.push(WorkloadRun { name: Some(name), folder, benchmark }),
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

    async fn run(mut self: Box<Self>, session: Session<'_>) -> Result<Done, Failure> {
        self.earlier.push(PhaseTime { name: "engine start".into(), us: Micros::from(session.start) });
        self.notes.extend(session.note);
        let dir = self.dir.clone();
        let outcomes = self.measure(session.fleet, session.environment, session.progress, session.cancel).await?;
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
        let (dir, report) = (workload.dir.display(), workload.dir.join("report.html"));
        let table = report::print(workload, view.columns);
        format!("{table}{settled}\nartifacts: {dir}\nreport:    {}\n", report.display())
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
        let WorkloadRun { name, mut folder, benchmark } = workload;
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
        let mut run = self.run_info(&folder);
        // Written before there is much to say, so that a program that follows the run knows its engines.
        folder.write_run(&run)?;
        folder.show_samples(fleet).await;

        let arranged = match until {
            Until::Repetitions(_) => measurement.arrange(&runner, &mut run, &mut phases).await,
            Until::Decided(budget) => {
                runner.begin_budget(budget);
                let arranging = measurement.arrange(&runner, &mut run, &mut phases);
                tokio::time::timeout(budget.left(), arranging).await.unwrap_or_else(|_| Err(budget.over()))
            }
        };
        let mut measured = match arranged {
            Ok(()) => {
                // An exact run compares tokens, and has no ratios.
                run.expected = if self.settings.run.exact { None } else { self.expectations.of_workload(&run) };
                folder.write_run(&run)?;
                phases.begin("measurement", run.arms.len() as u32 * repetitions.unwrap_or(0));
                let seed = self.settings.workload.seed;
                pair::measure(measurement.as_ref(), &mut run, seed, until, &runner, &mut folder).await?
            }
            Err(stopped) => Measured { stopped: Some(stopped), ..Measured::default() },
        };

        phases.begin("summary", 0);
        folder.end_samples()?;
        let stopped = measured.stopped.take();
        let findings = runner.findings();
        run.interrupted = stopped.is_some();
        run.held_blocks_after = findings.held_after();
        run.drained = findings.drained();
        run.notes = [findings.notes(), fleet.gpu_notes().await].concat();
        let (summary, requests, mut run) = summarise(run, measured).await?;
        folder.write_summary(&summary)?;
        run.phases = [earlier, phases.end()].concat();
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
