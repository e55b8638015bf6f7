//! The course of a benchmark, the same for every target: checks and folders before any engine starts, then, part by part, the target's own
//! preparation, the measurement, the summary, and what makes the run a failed one.
//!
//! A part is one workload with its arms and a folder of its own. Most targets have one.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use async_trait::async_trait;

use dualpool_fleet::Progress;
use dualpool_fleet::controller::Controller;
use dualpool_report::{self as report, Overview, load_parts, part_folders, settle};
use dualpool_types::artifact::{Environment, PhaseTime, RunInfo, Summary};
use dualpool_types::records::RequestRecord;
use dualpool_types::{EngineInfo, Failure, Micros};
use dualpool_workload::WorkItem;

use super::drive::{DriveError, Driver, Pace};
use super::expectations::Expectations;
use super::faults::{exact, faults};
use super::folder::{FolderError, Identity, RunFolder};
use super::pair::{self, Measured};
use super::phases::Phases;
use super::{Cancel, stats};
use crate::target::{Done, Handed, OnFleet, View};
use crate::{RunSettings, Settings};

/// `--quick`: at most this many repetitions, of this share of the requests.
const QUICK_REPETITIONS: u32 = 2;
const QUICK_SCALE: f64 = 0.25;

/// The share of a repetition's requests for the sequential runs of `--exact`.
const EXACT_SCALE: f64 = 0.25;

/// How much a run does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Effort {
    pub repetitions: u32,
    /// The share of the requests that a repetition has.
    pub scale: f64,
    pub pace: Pace,
}

impl Effort {
    pub(crate) fn of(run: &RunSettings) -> Effort {
        Effort {
            repetitions: match (run.exact, run.quick) {
                (true, _) => 1,
                (false, true) => run.repetitions.min(QUICK_REPETITIONS),
                (false, false) => run.repetitions,
            },
            scale: if run.quick { QUICK_SCALE } else { 1.0 } * if run.exact { EXACT_SCALE } else { 1.0 },
            pace: if run.exact { Pace::OneByOne } else { Pace::OpenLoop },
        }
    }
}

/// What a part of a run measures.
pub(super) trait Subject: fmt::Debug + Send + Sync {
    /// The part's settings, worked out for the engines that came up.
    fn plan<'a>(
        &'a self,
        settings: &'a Settings,
        engines: &[EngineInfo],
        driver: &Driver<'_>,
    ) -> anyhow::Result<Box<dyn Plan + 'a>>;
}

/// What a part of a run does on these engines.
#[async_trait]
pub(super) trait Plan: Send + Sync {
    fn effort(&self) -> Effort;

    /// Warms the engines up and decides on arms and rate; what it comes to stands in `run`.
    async fn arrange(&self, driver: &Driver<'_>, run: &mut RunInfo, phases: &mut Phases<'_>) -> Result<(), DriveError>;

    /// The requests of the repetition with this seed.
    fn items(&self, run: &RunInfo, seed: u64) -> Result<Vec<WorkItem>, DriveError>;
}

/// What a part of a run came to.
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
    parts: Vec<Part>,
    earlier: Vec<PhaseTime>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Part {
    /// Its name, where the run has several.
    name: Option<&'static str>,
    folder: RunFolder,
    subject: Box<dyn Subject>,
}

impl Paired {
    /// A run of one part, whose files lie in the run's folder.
    pub(super) fn whole(
        target: &str,
        settings: &Settings,
        command: Vec<String>,
        subject: Box<dyn Subject>,
    ) -> Result<Paired, FolderError> {
        let folder = RunFolder::create(Identity::now(target, &settings.run.out))?;
        let dir = folder.dir().to_path_buf();
        Ok(Paired::new(settings, command, dir, vec![Part { name: None, folder, subject }]))
    }

    /// A run of several parts, each with a folder of its own, named after it, in that of the run.
    pub(super) fn in_parts(
        target: &str,
        settings: &Settings,
        command: Vec<String>,
        subjects: Vec<(&'static str, Box<dyn Subject>)>,
    ) -> Result<Paired, FolderError> {
        let run = Identity::now(target, &settings.run.out);
        let mut prepared = Paired::new(settings, command, run.dir.clone(), Vec::new());
        for (name, subject) in subjects {
            match RunFolder::create(run.part(name)) {
                Ok(folder) => prepared.parts.push(Part { name: Some(name), folder, subject }),
                Err(error) => {
                    prepared.abandon();
                    return Err(error);
                }
            }
        }
        Ok(prepared)
    }

    fn new(settings: &Settings, command: Vec<String>, dir: PathBuf, parts: Vec<Part>) -> Paired {
        Paired { settings: settings.clone(), command, dir, parts, earlier: Vec::new(), notes: Vec::new() }
    }

    /// Removes the folders of a run that did not begin.
    pub fn abandon(self) {
        let several = self.overview().is_some();
        self.parts.into_iter().for_each(|part| part.folder.abandon());
        if several {
            // Fails, rightly, when the user's folder holds other things.
            let _ = std::fs::remove_dir(&self.dir);
        }
    }

    /// Runs the target on these engines, part by part. A cancelled run is no error; an engine's death is, and so is a difference under
    /// `--exact`. The artifacts of what was finished are written in any case; what was not begun leaves nothing.
    pub async fn measure(
        self,
        controller: &Controller,
        environment: Environment,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Vec<Outcome>, Failure> {
        let overview = self.overview();
        if let Some(overview) = &overview {
            overview.write(&self.dir).map_err(|source| FolderError::Write { path: self.dir.clone(), source })?;
        }
        let Paired { settings, command, parts, mut earlier, notes, .. } = self;
        let expectations = Expectations::read(&settings.run, &environment)?;
        expectations.announce(progress);
        let mut course = Course { settings: &settings, command, environment, notes, expectations, progress, cancel };
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut stopped = None;
        for part in parts {
            if stopped.is_some() || outcomes.last().is_some_and(|last| last.interrupted) {
                part.folder.abandon();
                continue;
            }
            match course.run(part, controller, std::mem::take(&mut earlier)).await {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => stopped = Some(error),
            }
        }
        match stopped {
            Some(error) => Err(error),
            None => {
                course.expectations.accept(&outcomes, progress)?;
                Ok(outcomes)
            }
        }
    }

    fn overview(&self) -> Option<Overview> {
        let parts: Vec<String> = self.parts.iter().filter_map(|part| part.name.map(String::from)).collect();
        (!parts.is_empty()).then_some(Overview { parts })
    }
}

#[async_trait(?Send)]
impl OnFleet for Paired {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn run(mut self: Box<Self>, fleet: Handed<'_>) -> Result<Done, Failure> {
        self.earlier.push(PhaseTime { name: "engine start".into(), us: Micros::from(fleet.start) });
        self.notes.extend(fleet.note);
        let dir = self.dir.clone();
        let outcomes = self.measure(fleet.controller, fleet.environment, fleet.progress, fleet.cancel).await?;
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

/// The run as the terminal shows it, part by part; as JSON its summary, and of one in parts an array with that of each part.
fn shown(dir: &Path, view: &View) -> Result<String, Failure> {
    if view.json {
        return Ok(match part_folders(dir)? {
            None => summary(dir)?,
            Some(parts) => {
                let summaries = parts.iter().map(|part| summary(part)).collect::<anyhow::Result<Vec<_>>>()?;
                format!("[{}]\n", summaries.join(","))
            }
        });
    }
    let parts = load_parts(dir)?;
    let shown = parts.iter().map(|part| {
        let settled = if view.settle { format!("\n{}", settle::table(part)) } else { String::new() };
        let (dir, report) = (part.dir.display(), part.dir.join("report.html"));
        let table = report::print(part, view.columns);
        format!("{table}{settled}\nartifacts: {dir}\nreport:    {}\n", report.display())
    });
    Ok(shown.collect::<Vec<_>>().join("\n\n"))
}

fn summary(dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("summary.json");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// What all parts of a run have in common.
struct Course<'a> {
    settings: &'a Settings,
    command: Vec<String>,
    environment: Environment,
    notes: Vec<String>,
    expectations: Expectations,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl Course<'_> {
    async fn run(&mut self, part: Part, controller: &Controller, earlier: Vec<PhaseTime>) -> Result<Outcome, Failure> {
        let Part { name, mut folder, subject } = part;
        let driver = Driver::new(controller, self.settings, self.cancel, self.progress);
        self.notes.iter().for_each(|note| driver.note(note.clone()));
        let plan = match subject.plan(self.settings, controller.engines(), &driver) {
            Ok(plan) => plan,
            Err(why) => {
                folder.abandon();
                return Err(why.into());
            }
        };
        let mut phases = Phases::new(self.progress, name);
        let mut run = self.run_info(&folder, plan.effort());
        // Written before there is much to say, so that who follows the run knows its engines.
        folder.write_run(&run)?;
        folder.show_samples(controller).await;

        let mut measured = match plan.arrange(&driver, &mut run, &mut phases).await {
            Ok(()) => {
                // An exact run compares tokens, and has no ratios.
                run.expected = if self.settings.run.exact { None } else { self.expectations.of_part(&run) };
                folder.write_run(&run)?;
                phases.begin("measurement", run.arms.len() as u32 * plan.effort().repetitions);
                pair::measure(plan.as_ref(), &run, &driver, &mut folder).await?
            }
            Err(stopped) => Measured { stopped: Some(stopped), ..Measured::default() },
        };

        phases.begin("summary", 0);
        folder.end_samples()?;
        let stopped = measured.stopped.take();
        let seen = driver.seen();
        run.interrupted = stopped.is_some();
        run.held_blocks_after = seen.held_after();
        run.drained = seen.drained();
        run.notes = [seen.notes(), controller.gpu_notes().await].concat();
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

    fn run_info(&self, folder: &RunFolder, effort: Effort) -> RunInfo {
        RunInfo {
            command: self.command.clone(),
            // Settings are plain data with string keys: they always have a JSON form.
            settings: serde_json::to_value(self.settings).unwrap_or_default(),
            seeds: pair::seeds(self.settings.workload.seed, "repetitions", effort.repetitions),
            quick: self.settings.run.quick,
            ..RunInfo::begun(folder.target(), folder.id(), folder.started_at(), self.environment.clone())
        }
    }
}

/// The bootstrap takes a second or two of one core: on a thread of its own, so that nothing else waits for it.
async fn summarise(run: RunInfo, measured: Measured) -> anyhow::Result<(Summary, Vec<RequestRecord>, RunInfo)> {
    let work =
        move || stats::summarise(&run, &measured.requests, &measured.samples).map(|summary| (summary, measured.requests, run));
    Ok(tokio::task::spawn_blocking(work).await.context("the summary could not be computed")??)
}
