//! The target `dual_pool`, from the first check to the verdicts: warm-up, calibration, search, measurement, summary.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::arms::{self, ONE_ENGINE, Pools};
use super::drive::{DriveError, Driver, Pace};
use super::folder::RunFolder;
use super::identical::first_difference;
use super::pair::{self, Measured};
use super::phases::Phases;
use super::search::{self, Found, PURPOSES, Purpose, Trials};
use super::{Cancel, Progress, saturation, stats, target};
use crate::config::{Arrivals, Settings};
use crate::controller::Controller;
use crate::core::Micros;
use crate::engine::EngineInfo;
use crate::report::{Environment, PhaseTime, RunInfo, Summary};
use crate::router::Arrangement;
use crate::telemetry::RequestRecord;
use crate::workload::{self, Workload};

/// `--quick`: at most this many repetitions, of this share of the requests, with this share of the search's time.
const QUICK_REPETITIONS: u32 = 2;
const QUICK_SCALE: f64 = 0.25;
const QUICK_SEARCH: f64 = 1.0 / 3.0;

/// Shares of a repetition's requests for the warm-up, the calibration, and the sequential runs of `--exact`.
const WARM_UP_SCALE: f64 = 0.1;
const CALIBRATION_SCALE: f64 = 0.5;
const EXACT_SCALE: f64 = 0.25;

/// A machine that took no sample for this long, and for this many sample periods, stood still.
const PAUSE_MIN: Micros = Micros(1_000_000);
const PAUSE_SAMPLES_MIN: u64 = 10;

/// A step that is to keep the ITL objective is sized for this share of it; the rest is for what the cost model does not know.
const STEP_SHARE_OF_ITL: f64 = 0.9;

/// A bootstrap of fewer resamples has no interval worth printing.
const RESAMPLES_MIN: u32 = 100;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub dir: PathBuf,
    pub summary: Summary,
    /// The run was cancelled; the summary covers the repetitions that were finished.
    pub interrupted: bool,
}

/// A run that passed all checks that need no engine. Its folder exists.
#[derive(Debug)]
pub struct Prepared {
    settings: Settings,
    command: Vec<String>,
    folder: RunFolder,
    earlier: Vec<PhaseTime>,
}

/// Checks the settings and makes the run folder. Engines take long to start: call this before.
pub fn prepare(settings: &Settings, command: Vec<String>) -> anyhow::Result<Prepared> {
    arms::check(&settings.run.arms)?;
    workload::check(&settings.workload, settings.engine.max_model_len)?;
    ensure!(settings.run.repetitions > 0, "run.repetitions is 0; give at least 1");
    let resamples = settings.run.bootstrap_resamples;
    ensure!(resamples >= RESAMPLES_MIN, "run.bootstrap_resamples is {resamples}; give at least {RESAMPLES_MIN}");
    let objectives = &settings.objectives;
    for (key, value) in
        [("ttft_short_ms", objectives.ttft_short_ms), ("ttft_long_ms", objectives.ttft_long_ms), ("itl_ms", objectives.itl_ms)]
    {
        ensure!(value.is_finite() && value > 0.0, "objectives.{key} is {value}; give a positive number of milliseconds");
    }
    let folder = RunFolder::create(target::DUAL_POOL.name, &settings.run.out)?;
    Ok(Prepared { settings: settings.clone(), command, folder, earlier: Vec::new() })
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
        let driver = Driver { controller, objectives: &settings.objectives, cancel };
        let plan = Plan::new(&settings, controller.engines())?;
        let mut phases = Phases::new(progress);
        let mut run = self.run_info(environment, &plan);

        let mut measured = match plan.arrange(&driver, &mut run, &mut phases, progress).await {
            Ok(()) => {
                self.folder.write_run(&run)?;
                phases.begin("measurement", run.arms.len() as u32 * plan.repetitions);
                let measurement = pair::Measurement {
                    run: &run,
                    workload: &plan.workload,
                    vocab_size: plan.vocab_size,
                    pace: plan.pace,
                    pause_min: PAUSE_MIN.max(Micros(settings.telemetry.sample_ms * 1_000 * PAUSE_SAMPLES_MIN)),
                };
                measurement.all(&driver, &mut self.folder, progress).await?
            }
            Err(ArrangeError::Drive(stopped)) => Measured { stopped: Some(stopped), ..Measured::default() },
            Err(error) => return Err(error.into()),
        };

        phases.begin("summary", 0);
        let stopped = measured.stopped.take();
        run.interrupted = stopped.is_some();
        run.held_blocks_after = measured.held_blocks;
        run.notes = std::mem::take(&mut measured.notes);
        let (summary, requests, mut run) = summarise(run, measured).await?;
        self.folder.write_summary(&summary)?;
        run.phases = [self.earlier, phases.end()].concat();
        self.folder.write_run(&run)?;
        let kept = || format!("the records are in {}", self.folder.dir().display());
        match stopped {
            Some(DriveError::Cancelled) => {}
            Some(error) => return Err(error).with_context(kept),
            None if settings.run.exact => exact(&requests).with_context(kept)?,
            None => {}
        }
        Ok(Outcome { dir: self.folder.dir().to_path_buf(), summary, interrupted: run.interrupted })
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

#[derive(Debug, thiserror::Error)]
enum ArrangeError {
    #[error(transparent)]
    Drive(#[from] DriveError),
    #[error(
        "no request was completed in the calibration, so there is no load to derive a rate from; see the engines' log, or set \
         workload.rate"
    )]
    NoSaturation,
}

/// The settings of a run, worked out for these engines.
struct Plan<'a> {
    settings: &'a Settings,
    pools: Pools,
    engine: EngineInfo,
    vocab_size: u32,
    kv_transfer: bool,
    /// The mix as it was asked for; the workload of one repetition is a share of it under `--quick` and `--exact`.
    mix: Workload,
    workload: Workload,
    repetitions: u32,
    pace: Pace,
}

impl<'a> Plan<'a> {
    fn new(settings: &'a Settings, engines: &[EngineInfo]) -> anyhow::Result<Plan<'a>> {
        let pools = Pools::new(&settings.pools, &settings.router, engines.len())?;
        let Some(engine) = engines.iter().min_by_key(|e| e.max_model_len).cloned() else { bail!("there are no engines") };
        workload::check(&settings.workload, engine.max_model_len)?;
        let run = &settings.run;
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
            kv_transfer: engines.iter().all(|e| e.kv_transfer),
            engine,
            workload: if scale < 1.0 { mix.scaled(scale) } else { mix.clone() },
            mix,
            repetitions,
            pace: if run.exact { Pace::OneByOne } else { Pace::OpenLoop },
        })
    }

    /// Warms the engines up and decides on the rate and the arms.
    async fn arrange(
        &self,
        driver: &Driver<'_>,
        run: &mut RunInfo,
        phases: &mut Phases<'_>,
        progress: &dyn Progress,
    ) -> Result<(), ArrangeError> {
        phases.begin("warm-up", 2);
        self.warm_up(driver, progress).await?;
        if self.settings.run.exact {
            // Engines stay as they were started: in bf16 the size of a prefill step alone can change a token.
            let names = [ONE_ENGINE].into_iter().chain(self.settings.run.arms.iter().map(String::as_str));
            run.arms = pair::with_control(names.map(|name| self.pools.arm(name, &BTreeMap::new())).collect());
            return Ok(());
        }
        let purposes: Vec<Purpose> =
            PURPOSES.into_iter().filter(|p| self.settings.run.arms.iter().any(|arm| arm == p.arm)).collect();
        let poisson = self.settings.workload.arrivals == Arrivals::Poisson;
        let given = (self.settings.workload.rate > 0.0).then_some(self.settings.workload.rate);
        if (poisson || !purposes.is_empty()) && given.is_none() {
            phases.begin("calibration", 2);
            run.saturation_rps = self.saturation(driver, progress).await?;
            if run.saturation_rps.is_none() {
                return Err(ArrangeError::NoSaturation);
            }
        }
        if poisson {
            let derived = run.saturation_rps.map(|rate| rate * self.settings.workload.load);
            run.rate_rps = given.or(derived).map(saturation::round);
        }
        let mut found = Found::default();
        if !purposes.is_empty() {
            phases.begin("search", 0);
            let rate_expected = run.rate_rps.or(run.saturation_rps).or(given).unwrap_or(1.0);
            found = self.search(driver, &purposes, run.rate_rps, rate_expected, progress).await?;
        }
        run.search = found.trials;
        let arms: Vec<Arrangement> = self.settings.run.arms.iter().map(|name| self.pools.arm(name, &found.arrangements)).collect();
        run.arms = pair::with_control(arms);
        Ok(())
    }

    /// A few requests through every engine and, where KV can move, through every hand-off: first steps and first copies are slow.
    async fn warm_up(&self, driver: &Driver<'_>, progress: &dyn Progress) -> Result<(), DriveError> {
        let items = self.mix.scaled(WARM_UP_SCALE).upfront().generate(self.vocab_size, self.seed("warm-up"), None);
        for name in ["shared_round_robin", "full_disaggregation"].iter().take(1 + usize::from(self.kv_transfer)) {
            progress.step(name);
            driver.run(&self.pools.arm(name, &BTreeMap::new()), 0, &items, Pace::OpenLoop).await?;
        }
        Ok(())
    }

    async fn saturation(&self, driver: &Driver<'_>, progress: &dyn Progress) -> Result<Option<f64>, DriveError> {
        let scale = if self.settings.run.quick { CALIBRATION_SCALE / 2.0 } else { CALIBRATION_SCALE };
        saturation::find(driver, &self.pools, &self.mix.scaled(scale), self.vocab_size, self.seed("saturation"), progress).await
    }

    async fn search(
        &self,
        driver: &Driver<'_>,
        purposes: &[Purpose],
        rate: Option<f64>,
        rate_expected: f64,
        progress: &dyn Progress,
    ) -> Result<Found, DriveError> {
        let budget = Duration::from_secs(self.settings.run.search_budget_s);
        let trials = Trials {
            workload: &self.mix,
            vocab_size: self.vocab_size,
            rate,
            rate_expected,
            seeds: &pair::seeds(self.settings.workload.seed, "search", search::ROUNDS.len() as u32),
            budget: if self.settings.run.quick { budget.mul_f64(QUICK_SEARCH) } else { budget },
        };
        // Fitted on these engines while they warmed up and were calibrated.
        let costs = driver.costs().await?;
        let step = Micros::from_ms(self.settings.objectives.itl_ms * STEP_SHARE_OF_ITL);
        let short = self.settings.workload.short_prompt_tokens;
        let mut candidates = search::candidates(&self.pools, &self.engine, short, costs.batched_tokens_within(step));
        candidates.retain(|c| self.kv_transfer || !c.policy.moves_kv());
        search::search(driver, candidates, purposes, &trials, progress).await
    }

    fn seed(&self, purpose: &str) -> u64 {
        pair::seeds(self.settings.workload.seed, purpose, 1)[0]
    }
}
