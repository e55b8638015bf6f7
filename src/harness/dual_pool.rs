//! The target `dual_pool`, from the first check to the verdicts: warm-up, calibration, search, measurement, summary.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use super::arms::{self, ONE_ENGINE, Pools};
use super::drive::{DriveError, Driver, Pace, Work};
use super::folder::RunFolder;
use super::identical::first_difference;
use super::pair::{self, Measured};
use super::phases::Phases;
use super::search::{self, Found, PURPOSES, Purpose, Trials};
use super::{Cancel, Progress, saturation, stats, target};
use crate::config::{self, Arrivals, Settings};
use crate::controller::Controller;
use crate::core::{Micros, RequestError};
use crate::engine::EngineInfo;
use crate::report::{self, Environment, PhaseTime, RunInfo, Summary};
use crate::router::Arrangement;
use crate::telemetry::{self, RequestRecord};
use crate::workload::{self, Workload};

/// `--quick`: at most this many repetitions, of this share of the requests, with this share of the search's time.
const QUICK_REPETITIONS: u32 = 2;
const QUICK_SCALE: f64 = 0.25;
const QUICK_SEARCH: f64 = 1.0 / 3.0;

/// Shares of a repetition's requests for the warm-up, the calibration, and the sequential runs of `--exact`.
const WARM_UP_SCALE: f64 = 0.1;
const CALIBRATION_SCALE: f64 = 0.5;
const EXACT_SCALE: f64 = 0.25;

/// A step that is to keep the ITL objective is sized for this share of it; the rest is for what the cost model does not know.
const STEP_SHARE_OF_ITL: f64 = 0.9;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub dir: PathBuf,
    pub summary: Summary,
    /// The run was cancelled; the summary covers the repetitions that were finished.
    pub interrupted: bool,
    /// What makes the run a failed one, whatever its figures say.
    pub faults: Vec<String>,
}

/// A run that passed all checks that need no engine. Its folder exists.
#[derive(Debug)]
pub struct Prepared {
    settings: Settings,
    command: Vec<String>,
    folder: RunFolder,
    earlier: Vec<PhaseTime>,
    notes: Vec<String>,
}

/// Checks the settings and makes the run folder. Engines take long to start: call this before.
pub fn prepare(settings: &Settings, command: Vec<String>) -> anyhow::Result<Prepared> {
    config::check(settings)?;
    workload::check(&settings.workload, settings.engine.max_model_len)?;
    let folder = RunFolder::create(target::DUAL_POOL.name, &settings.run.out)?;
    Ok(Prepared { settings: settings.clone(), command, folder, earlier: Vec::new(), notes: Vec::new() })
}

/// `prepare` and `Prepared::run` in one, for engines that are up already.
pub async fn run(
    controller: &Controller,
    environment: Environment,
    settings: &Settings,
    command: Vec<String>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> anyhow::Result<Outcome> {
    prepare(settings, command)?.run(controller, environment, progress, cancel).await
}

impl Prepared {
    /// Adds a phase that went before, such as the engines' start.
    pub fn took(&mut self, name: &str, time: Duration) {
        self.earlier.push(PhaseTime { name: name.to_string(), us: Micros::from(time) });
    }

    /// Adds what the reader of the figures should know of how the engines were brought up.
    pub fn noted(&mut self, note: Option<String>) {
        self.notes.extend(note);
    }

    /// Gives the run up before it began, because no engine came up for it. Its folder is removed.
    pub fn abandon(self) {
        self.folder.abandon();
    }

    /// Runs the target on these engines. A cancelled run is no error; an engine's death is, and so is a difference under `--exact`.
    /// The artifacts of what was finished are written in any case.
    pub async fn run(
        mut self,
        controller: &Controller,
        environment: Environment,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> anyhow::Result<Outcome> {
        let settings = self.settings.clone();
        let driver = Driver::new(controller, &settings, cancel, progress);
        std::mem::take(&mut self.notes).into_iter().for_each(|note| driver.note(note));
        let plan = match Plan::new(&settings, controller.engines(), &driver) {
            Ok(plan) => plan,
            Err(why) => {
                self.abandon();
                return Err(why);
            }
        };
        let mut phases = Phases::new(progress);
        let mut run = self.run_info(environment, &plan);
        // Written before there is much to say, so that who follows the run knows its engines.
        self.folder.write_run(&run)?;
        self.folder.show_samples(controller).await;

        let mut measured = match plan.arrange(&driver, &mut run, &mut phases).await {
            Ok(()) => {
                self.folder.write_run(&run)?;
                phases.begin("measurement", run.arms.len() as u32 * plan.repetitions);
                let measurement =
                    pair::Measurement { run: &run, workload: &plan.workload, vocab_size: plan.vocab_size, pace: plan.pace };
                measurement.all(&driver, &mut self.folder).await?
            }
            Err(stopped) => Measured { stopped: Some(stopped), ..Measured::default() },
        };

        phases.begin("summary", 0);
        self.folder.end_samples()?;
        let stopped = measured.stopped.take();
        let seen = driver.seen();
        run.interrupted = stopped.is_some();
        run.held_blocks_after = seen.held_after();
        run.notes = [seen.notes, controller.gpu_notes().await].concat();
        let (summary, requests, mut run) = summarise(run, measured).await?;
        self.folder.write_summary(&summary)?;
        run.phases = [self.earlier, phases.end()].concat();
        self.folder.write_run(&run)?;
        report::write_html(self.folder.dir())?;
        let kept = || format!("the records are in {}", self.folder.dir().display());
        match stopped {
            Some(DriveError::Cancelled) => {}
            Some(error) => return Err(error).with_context(kept),
            None if settings.run.exact => exact(&requests).with_context(kept)?,
            None => {}
        }
        let faults = faults(&summary, &requests);
        Ok(Outcome { dir: self.folder.dir().to_path_buf(), summary, interrupted: run.interrupted, faults })
    }

    fn run_info(&self, environment: Environment, plan: &Plan) -> RunInfo {
        RunInfo {
            target: target::DUAL_POOL.name.to_string(),
            id: self.folder.id().to_string(),
            started_at: self.folder.started_at().to_string(),
            command: self.command.clone(),
            environment,
            // Settings are plain data with string keys: they always have a JSON form.
            settings: serde_json::to_value(&self.settings).unwrap_or_default(),
            arms: Vec::new(),
            seeds: pair::seeds(self.settings.workload.seed, "repetitions", plan.repetitions),
            rate_rps: None,
            saturation_rps: None,
            phases: Vec::new(),
            notes: Vec::new(),
            search: Vec::new(),
            held_blocks_after: 0,
            quick: self.settings.run.quick,
            interrupted: false,
        }
    }
}

/// The bootstrap takes a second or two of one core: on a thread of its own, so that nothing else waits for it.
async fn summarise(run: RunInfo, measured: Measured) -> anyhow::Result<(Summary, Vec<RequestRecord>, RunInfo)> {
    let work =
        move || stats::summarise(&run, &measured.requests, &measured.samples).map(|summary| (summary, measured.requests, run));
    Ok(tokio::task::spawn_blocking(work).await.context("the summary could not be computed")??)
}

fn exact(requests: &[RequestRecord]) -> anyhow::Result<()> {
    let requests: Vec<&RequestRecord> = requests.iter().collect();
    first_difference(&requests, ONE_ENGINE).map_or(Ok(()), |difference| Err(difference.into()))
}

/// Blocks that were not given back, KV that was lost on its way, and requests that failed although they were admitted. A rejection is
/// an answer: more was offered than `router.max_in_flight` takes.
fn faults(summary: &Summary, requests: &[RequestRecord]) -> Vec<String> {
    let mut faults = Vec::new();
    if summary.held_blocks_after > 0 {
        faults.push(format!("{} KV blocks were still held after the last request of an arm", summary.held_blocks_after));
    }
    for arm in &summary.arms {
        if arm.handoffs.recomputed > 0 {
            let (recomputed, all) = (arm.handoffs.recomputed, arm.handoffs.recomputed + arm.handoffs.count);
            faults.push(format!("arm `{}`: the KV of {recomputed} of {all} hand-offs was not moved but computed again", arm.name));
        }
        let failed = |r: &RequestRecord| match &r.outcome {
            telemetry::Outcome::Done | telemetry::Outcome::Failed { error: RequestError::Rejected { .. } } => None,
            telemetry::Outcome::Failed { error } => Some(error.to_string()),
        };
        let errors: Vec<String> = requests.iter().filter(|r| r.arm == arm.name).filter_map(failed).collect();
        if let Some(first) = errors.first() {
            faults.push(format!("arm `{}`: {} of its requests failed, the first one because {first}", arm.name, errors.len()));
        }
    }
    faults
}

/// The settings of a run, worked out for these engines.
struct Plan<'a> {
    settings: &'a Settings,
    pools: Pools,
    engine: EngineInfo,
    vocab_size: u32,
    kv_transfer: bool,
    /// The arms that were asked for, less those that these engines cannot serve.
    arms: Vec<String>,
    /// The mix as it was asked for; the workload of one repetition is a share of it under `--quick` and `--exact`.
    mix: Workload,
    workload: Workload,
    repetitions: u32,
    pace: Pace,
}

impl<'a> Plan<'a> {
    fn new(settings: &'a Settings, engines: &[EngineInfo], driver: &Driver<'_>) -> anyhow::Result<Plan<'a>> {
        let pools = Pools::new(&settings.pools, &settings.router, engines.len())?;
        let Some(engine) = engines.iter().min_by_key(|e| e.max_model_len).cloned() else { bail!("there are no engines") };
        workload::check(&settings.workload, engine.max_model_len)?;
        let run = &settings.run;
        let kv_transfer = engines.iter().all(|e| e.kv_transfer);
        let (arms, dropped) = arms::servable(&pools, &run.arms, kv_transfer)?;
        if !dropped.is_empty() {
            driver.note(format!("These engines do not move KV between them, so these arms were left out: {}.", dropped.join(", ")));
        }
        let scale = if run.quick { QUICK_SCALE } else { 1.0 } * if run.exact { EXACT_SCALE } else { 1.0 };
        let mix = Workload::new(&settings.workload);
        let repetitions = match (run.exact, run.quick) {
            (true, _) => 1,
            (false, true) => run.repetitions.min(QUICK_REPETITIONS),
            (false, false) => run.repetitions,
        };
        Ok(Plan {
            settings,
            pools,
            vocab_size: engines.iter().map(|e| e.vocab_size).min().unwrap_or(engine.vocab_size),
            kv_transfer,
            arms,
            engine,
            workload: if scale < 1.0 { mix.scaled(scale) } else { mix.clone() },
            mix,
            repetitions,
            pace: if run.exact { Pace::OneByOne } else { Pace::OpenLoop },
        })
    }

    /// Warms the engines up and decides on the rate and the arms.
    async fn arrange(&self, driver: &Driver<'_>, run: &mut RunInfo, phases: &mut Phases<'_>) -> Result<(), DriveError> {
        phases.begin("warm-up", 1 + u32::from(self.kv_transfer));
        self.warm_up(driver).await?;
        if self.settings.run.exact {
            // Engines stay as they were started: in bf16 the size of a prefill step alone can change a token.
            let names = [ONE_ENGINE].into_iter().chain(self.arms.iter().map(String::as_str));
            run.arms = pair::with_control(names.map(|name| self.pools.arm(name, &BTreeMap::new())).collect());
            return driver.keep_costs().await;
        }
        let purposes: Vec<Purpose> = PURPOSES.into_iter().filter(|p| self.arms.iter().any(|arm| arm == p.arm)).collect();
        let poisson = self.settings.workload.arrivals == Arrivals::Poisson;
        let given = (self.settings.workload.rate > 0.0).then_some(self.settings.workload.rate);
        if (poisson || !purposes.is_empty()) && given.is_none() {
            phases.begin("calibration", 2);
            run.saturation_rps = Some(self.saturation(driver).await?);
        }
        if poisson {
            let derived = run.saturation_rps.map(|rate| rate * self.settings.workload.load);
            run.rate_rps = given.or(derived).map(saturation::round);
        }
        let mut found = Found::default();
        if !purposes.is_empty() {
            phases.begin("search", 0);
            let rate_expected = run.rate_rps.or(run.saturation_rps).or(given).unwrap_or(1.0);
            found = self.search(driver, &purposes, run.rate_rps, rate_expected).await?;
        }
        run.search = found.trials;
        let arms: Vec<Arrangement> = self.arms.iter().map(|name| self.pools.arm(name, &found.arrangements)).collect();
        run.arms = pair::with_control(arms);
        driver.keep_costs().await
    }

    /// A few requests through every engine and, where KV can move, through every hand-off: first steps and first copies are slow.
    async fn warm_up(&self, driver: &Driver<'_>) -> Result<(), DriveError> {
        let items = self.mix.scaled(WARM_UP_SCALE).upfront().generate(self.vocab_size, self.seed("warm-up"), None);
        for name in ["shared_round_robin", "full_disaggregation"].iter().take(1 + usize::from(self.kv_transfer)) {
            driver.run(name, &self.pools.arm(name, &BTreeMap::new()), 0, Work::open_loop(&items)).await?;
        }
        Ok(())
    }

    async fn saturation(&self, driver: &Driver<'_>) -> Result<f64, DriveError> {
        let scale = if self.settings.run.quick { CALIBRATION_SCALE / 2.0 } else { CALIBRATION_SCALE };
        saturation::find(driver, &self.pools, &self.mix.scaled(scale), self.vocab_size, self.seed("saturation")).await
    }

    async fn search(
        &self,
        driver: &Driver<'_>,
        purposes: &[Purpose],
        rate: Option<f64>,
        rate_expected: f64,
    ) -> Result<Found, DriveError> {
        let budget = Duration::from_secs(self.settings.run.search_budget_s);
        let quick = self.settings.run.quick;
        let rounds: &[f64] = if quick { &search::ONE_ROUND } else { &search::ROUNDS };
        let trials = Trials {
            workload: &self.mix,
            vocab_size: self.vocab_size,
            rate,
            rate_expected,
            rounds,
            seeds: &pair::seeds(self.settings.workload.seed, "search", rounds.len() as u32),
            budget: if quick { budget.mul_f64(QUICK_SEARCH) } else { budget },
        };
        // Fitted on these engines while they warmed up and were calibrated.
        let costs = driver.costs().await?;
        let step = Micros::from_ms(self.settings.objectives.itl_ms * STEP_SHARE_OF_ITL);
        let short = self.settings.workload.short_prompt_tokens;
        let mut candidates = search::candidates(&self.pools, &self.engine, short, costs.batched_tokens_within(step));
        candidates.retain(|c| self.kv_transfer || !c.policy.moves_kv());
        let seeds = pair::seeds(self.settings.workload.seed, "forecast", search::FORECAST_REPETITIONS);
        let workloads: Vec<_> = seeds.iter().map(|&seed| self.mix.generate(self.vocab_size, seed, rate)).collect();
        let (engine, wanted) = (self.engine.clone(), self.settings.objectives.clone());
        // A second or two of one core: on a thread of its own, so that nothing else waits for it.
        let work = move || search::forecast(candidates, &engine, costs, &workloads, &wanted);
        let forecasts = tokio::task::spawn_blocking(work).await.map_err(anyhow::Error::from).and_then(|made| Ok(made?));
        let forecasts = forecasts.map_err(DriveError::Forecast)?;
        search::search(driver, forecasts, purposes, &trials).await
    }

    fn seed(&self, purpose: &str) -> u64 {
        pair::seeds(self.settings.workload.seed, purpose, 1)[0]
    }
}
