//! The target `dual_pool`: what it checks beforehand, and how it decides on the rate and the arms. The rest is every target's: `run`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;

use dualpool_fleet::Fleet;
use dualpool_fleet::Progress;
use dualpool_report::measure::{quantile, sorted};
use dualpool_types::artifact::{Environment, RunInfo, RunMix, RunRepetition};
use dualpool_types::{Arm, Arrangement, EngineInfo, Failure, Micros};
use dualpool_workload::{Arrivals, ModelLimits, Workload, mix_name};

use crate::arms::{self, Pools};
use crate::budget::fit;
use crate::drive::{ArmRunner, DriveError, Pace, Work};
use crate::flags::{SettingFlag, flag};
use crate::idle;
use crate::phases::Phases;
use crate::plan::{self, Plan, PlannedWorkload};
use crate::run::{Benchmark, Effort, Measurement, Outcome, Paired, Repetition};
use crate::search::{self, SearchResult, TrialSetup};
use crate::target::{Call, Flags, Planner, Prepared, Target};
use crate::{Cancel, RunSettings, Settings, folder, pair, saturation};

/// The share of the search's time that `--quick` leaves.
const QUICK_SEARCH: f64 = 1.0 / 3.0;

/// Shares of a repetition's requests for the warm-up and the calibration.
const WARM_UP_SCALE: f64 = 0.1;
const CALIBRATION_SCALE: f64 = 0.5;

/// What the search may take of the time that is left.
const SEARCH_SHARE: f64 = 0.3;

/// Nearer to saturation than this, queues are not told from queues that grow without end.
const LOAD_MAX: f64 = 0.9;

/// A step that is to keep the ITL objective is sized for this share of it; the rest is for what the cost model does not know.
const STEP_SHARE_OF_ITL: f64 = 0.9;

/// The arms that compete for the saturation.
const SATURATING: [Arm; 2] = [Arm::SharedRoundRobin, Arm::SharedLeastLoad];

fn check(settings: &Settings) -> Result<(), Failure> {
    settings.check()?;
    Ok(dualpool_workload::check(&settings.workload, settings.engine.max_model_len)?)
}

/// Checks the settings and makes the run folder. Engines take long to start: call this before.
pub fn prepare(settings: &Settings, command: &[String]) -> Result<Paired, Failure> {
    check(settings)?;
    Ok(Paired::of_one(DualPool.name(), settings, command.to_vec(), Box::new(DualPool))?)
}

/// What `run` would do by these settings.
fn plan(settings: &Settings) -> Result<Plan, Failure> {
    check(settings)?;
    let pools = Pools::new(&settings.pools, &settings.router, settings.pools.engines())?;
    let mix = Workload::new(&settings.workload);
    let effort = Effort::of(&settings.run, mix.requests(), mix.is_steady());
    // Any vocabulary does where only lengths are looked at.
    let items = share(&mix, effort.requests).generate(u32::MAX, settings.workload.seed, None);
    let arrivals = match (effort.pace, settings.workload.arrivals) {
        (Pace::OneByOne, _) => "one at a time".to_string(),
        (_, Arrivals::AllUpfront) => "all at once".to_string(),
        (_, Arrivals::Poisson) => plan::at_a_rate(&settings.workload),
    };
    let workload = PlannedWorkload { name: mix_name(settings.workload.mix), requests: plan::in_words(&items), arrivals };
    let arms = arms_of(&settings.run, &settings.run.chosen_arms().map_err(anyhow::Error::from)?, &pools, &BTreeMap::new());
    Ok(Plan::new(DualPool.name(), settings, &[], &arms, vec![workload])?)
}

/// The whole target, on engines that are up already.
pub async fn run(
    fleet: &Fleet,
    environment: Environment,
    settings: &Settings,
    command: Vec<String>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Outcome, Failure> {
    let mut outcomes = prepare(settings, &command)?.measure(fleet, environment, progress, cancel).await?;
    Ok(outcomes.pop().context("a run without parts")?)
}

#[derive(Debug)]
pub struct DualPool;

impl Target for DualPool {
    fn name(&self) -> &'static str {
        "dual_pool"
    }

    fn about(&self) -> &'static str {
        "a prefill and a decode pool with KV hand-off, against shared pools, on the same engines and requests"
    }

    fn file(&self) -> Option<&'static str> {
        Some(folder::REQUESTS)
    }

    fn flags(&self) -> Flags {
        Flags::Settings(&FLAGS)
    }

    fn plan(&self) -> Option<Planner> {
        Some(plan)
    }

    fn prepare(&self, call: &Call) -> Result<Prepared, Failure> {
        Ok(Prepared::OnFleet(Box::new(prepare(call.settings, call.command)?)))
    }
}

#[rustfmt::skip]
const FLAGS: [SettingFlag; 10] = [
    flag("mix", "workload.mix", "MIX", "balanced, decode_heavy, long_context, burst or changing"),
    flag("arrivals", "workload.arrivals", "KIND", "all_upfront or poisson"),
    flag("long-prompt-tokens", "workload.long_prompt_tokens", "TOKENS", "Length of a long prompt"),
    flag("short-prompt-tokens", "workload.short_prompt_tokens", "TOKENS", "Length of a short prompt"),
    flag("prefill-burst", "workload.prefill_burst", "N", "Requests with a long prompt"),
    flag("decode-requests", "workload.decode_requests", "N", "Requests with a short prompt"),
    flag("continue-requests", "workload.continue_requests", "N", "Further requests with a short prompt"),
    flag("max-tokens", "workload.max_tokens", "TOKENS", "Output tokens of a request"),
    flag("arms", "run.arms", "LIST", "Arms to run, in order, or all"),
    flag("search-budget-s", "run.search_budget_s", "S", "Time for the search that tunes the arms which are to be tuned"),
];

impl Benchmark for DualPool {
    fn measurement<'a>(
        &'a self,
        settings: &'a Settings,
        engines: &[EngineInfo],
        runner: &ArmRunner<'_>,
    ) -> anyhow::Result<Box<dyn Measurement + 'a>> {
        Ok(Box::new(Split::new(settings, engines, runner)?))
    }
}

/// The settings of a run, worked out for these engines.
struct Split<'a> {
    settings: &'a Settings,
    pools: Pools,
    engine: EngineInfo,
    vocab_size: u32,
    kv_transfer: bool,
    /// The arms that were asked for, less those that these engines cannot serve.
    arms: Vec<Arm>,
    /// The workload as it was asked for; a repetition has a share of its requests.
    mix: Workload,
    effort: Effort,
}

impl<'a> Split<'a> {
    fn new(settings: &'a Settings, engines: &[EngineInfo], runner: &ArmRunner<'_>) -> anyhow::Result<Split<'a>> {
        let pools = Pools::new(&settings.pools, &settings.router, engines.len())?;
        let Some(engine) = engines.iter().min_by_key(|e| e.max_model_len).cloned() else { bail!("there are no engines") };
        dualpool_workload::check(&settings.workload, engine.max_model_len).map_err(Failure::from)?;
        let run = &settings.run;
        let kv_transfer = engines.iter().all(|e| e.kv_transfer);
        let asked = run.chosen_arms()?;
        if run.arms != RunSettings::default().arms && run.arms.iter().any(|name| name == Arm::Auto.name()) {
            runner.note(format!(
                "`{}` is the arm that adapts while it serves; the winner of the search, which was called so before, is `{}`.",
                Arm::Auto.name(),
                Arm::BestFound.name()
            ));
        }
        let (arms, dropped) = arms::servable(&pools, &asked, kv_transfer)?;
        if !dropped.is_empty() {
            runner.note(format!(
                "These engines do not move KV between them, so these arms were left out: {}.",
                arms::names(&dropped)
            ));
        }
        let mix = Workload::new(&settings.workload);
        let effort = Effort::of(run, mix.requests(), mix.is_steady());
        Ok(Split {
            settings,
            pools,
            vocab_size: engines.iter().map(|e| e.vocab_size).min().unwrap_or(engine.vocab_size),
            kv_transfer,
            arms,
            engine,
            mix,
            effort,
        })
    }

    /// A few requests through every engine and, where KV can move, through every hand-off: first steps and first copies are slow.
    /// Returns how long a request takes when a few others are on its engine.
    async fn warm_up(&self, runner: &ArmRunner<'_>) -> Result<Micros, DriveError> {
        let items = self.mix.scaled(WARM_UP_SCALE).upfront().generate(self.vocab_size, self.seed("warm-up"), None);
        let mut took = Vec::new();
        for arm in [Arm::SharedRoundRobin, Arm::FullDisaggregation].into_iter().take(1 + usize::from(self.kv_transfer)) {
            let recording = runner.run(arm.name(), &self.pools.arm(arm, &BTreeMap::new()), 0, Work::open_loop(&items)).await?;
            took.extend(recording.requests.iter().map(|request| (request.ended_us - request.arrived_us).as_ms()));
        }
        Ok(Micros::from_ms(quantile(&sorted(took.into_iter()), 0.5).unwrap_or_default()))
    }

    fn share(&self, requests: u32) -> Workload {
        share(&self.mix, requests)
    }

    fn arms(&self, found: &BTreeMap<Arm, Arrangement>) -> Vec<Arrangement> {
        arms_of(&self.settings.run, &self.arms, &self.pools, found)
    }

    /// Leaves out what there is no time for, and decides on the lead-in. `took`: what a request takes.
    fn cut(&self, runner: &ArmRunner<'_>, took: Micros, run: &mut RunInfo) {
        let Some(rate) = run.rate_rps else { return };
        let load = run.saturation_rps.map_or(self.settings.workload.load, |saturation| rate / saturation).clamp(0.0, LOAD_MAX);
        // A queue's memory: the nearer to saturation, the longer.
        let settling_s = took.as_secs() / (1.0 - load);
        let span_s = |requests: u32| f64::from(requests) / rate;
        let steady = self.mix.is_steady();
        let lead_in_s = |requests: u32| if steady { settling_s.min(span_s(requests)) } else { 0.0 };
        let idle_s = runner.findings().idle().as_secs_f64();
        let run_of = |requests: u32| lead_in_s(requests) + span_s(requests) + settling_s + idle_s;
        let mut requests = self.effort.requests;
        if let Some(budget) = runner.budget() {
            let fitting = fit(budget.left(), run.arms.len(), requests, run_of);
            let left_out = arms::least_important(&mut run.arms, fitting.arms);
            if !left_out.is_empty() {
                let names = left_out.join(", ");
                runner.note(format!("There is no time for all arms, so these were left out: {names}. More time: --budget."));
            }
            if fitting.requests < requests {
                runner.note(format!(
                    "There is no time for {requests} requests in a repetition, so it has {}. More time: --budget.",
                    fitting.requests
                ));
            }
            requests = fitting.requests;
        }
        if steady {
            run.repetition =
                Some(RunRepetition { requests: self.share(requests).requests() as u32, lead_in_s: lead_in_s(requests) });
        }
    }

    /// The rate that the user asked for.
    fn rate_given(&self) -> Option<f64> {
        Some(self.settings.workload.rate).filter(|&rate| rate > 0.0)
    }

    /// Mix by mix, as they differ in the work that a request makes.
    async fn saturations(&self, runner: &ArmRunner<'_>) -> Result<Vec<RunMix>, DriveError> {
        let scale = if self.settings.run.quick { CALIBRATION_SCALE / 2.0 } else { CALIBRATION_SCALE };
        let arms = SATURATING.map(|arm| self.pools.arm(arm, &BTreeMap::new()));
        let mut mixes = Vec::new();
        let served = self.share(self.effort.requests);
        for ((mix, part), (_, served)) in self.mix.parts().zip(served.parts()) {
            let items = part.scaled(scale).upfront().generate(self.vocab_size, self.seed("saturation"), None);
            let saturation_rps = saturation::find(runner, &arms, &items).await?;
            mixes.push(RunMix { name: mix_name(mix).into(), requests: served.requests() as u32, saturation_rps });
        }
        Ok(mixes)
    }

    async fn search(&self, runner: &ArmRunner<'_>, arms: &[Arm], run: &RunInfo) -> Result<SearchResult, DriveError> {
        let (mix, rate) = (paced(&self.mix, run), run.rate_rps);
        let rate_expected = rate.or(run.saturation_rps).or(self.rate_given()).unwrap_or(1.0);
        let given = Duration::from_secs(self.settings.run.search_budget_s);
        let budget = runner.budget().map_or(given, |budget| given.min(budget.left().mul_f64(SEARCH_SHARE)));
        let quick = self.settings.run.quick;
        let rounds: &[f64] = if quick { &search::ONE_ROUND } else { &search::ROUNDS };
        let trials = TrialSetup {
            workload: &mix,
            vocab_size: self.vocab_size,
            rate,
            rate_expected,
            rounds,
            seeds: &pair::seeds(self.settings.workload.seed, "search", rounds.len() as u32),
            budget: if quick { budget.mul_f64(QUICK_SEARCH) } else { budget },
        };
        // Fitted on these engines while they warmed up and were calibrated.
        let costs = runner.costs().await?;
        let step = Micros::from_ms(runner.objectives().itl_ms * STEP_SHARE_OF_ITL);
        let short = self.settings.workload.short_prompt_tokens;
        let mut candidates = search::candidates(&self.pools, &self.engine, short, costs.batched_tokens_within(step));
        candidates.retain(|c| self.kv_transfer || !c.policy.moves_kv());
        let seeds = pair::seeds(self.settings.workload.seed, "forecast", search::FORECAST_REPETITIONS);
        let workloads: Vec<_> = seeds.iter().map(|&seed| mix.generate(self.vocab_size, seed, rate)).collect();
        let (engine, wanted) = (self.engine.clone(), runner.objectives());
        // A second or two of one core: on a thread of its own, so that nothing else waits for it.
        let work = move || search::forecast(candidates, &engine, costs, &workloads, &wanted);
        let forecasts = tokio::task::spawn_blocking(work).await.map_err(anyhow::Error::from).and_then(|made| Ok(made?));
        let forecasts = forecasts.map_err(DriveError::Forecast)?;
        search::search(runner, forecasts, arms, &trials).await
    }

    fn seed(&self, arm: &str) -> u64 {
        pair::seeds(self.settings.workload.seed, arm, 1)[0]
    }
}

#[async_trait]
impl Measurement for Split<'_> {
    fn effort(&self) -> Effort {
        self.effort
    }

    async fn arrange(&self, runner: &ArmRunner<'_>, run: &mut RunInfo, phases: &mut Phases<'_>) -> Result<(), DriveError> {
        phases.begin("warm-up", 1 + u32::from(self.kv_transfer));
        let took = self.warm_up(runner).await?;
        if self.settings.run.exact {
            // Engines stay as they were started: in bf16 the size of a prefill step alone can change a token.
            run.arms = self.arms(&BTreeMap::new());
            return runner.keep_costs().await;
        }
        let in_turn = self.pools.arm(Arm::SharedRoundRobin, &BTreeMap::new());
        let model = ModelLimits { vocab_size: self.vocab_size, max_model_len: self.engine.max_model_len };
        idle::settle_objectives(runner, &in_turn, self.settings, model, run, phases).await?;
        let arms: Vec<Arm> = Arm::searched_for().filter(|arm| self.arms.contains(arm)).collect();
        let poisson = self.settings.workload.arrivals == Arrivals::Poisson;
        let given = self.rate_given();
        if (poisson || !arms.is_empty()) && given.is_none() {
            phases.begin("calibration", (SATURATING.len() * self.mix.parts().len()) as u32);
            let mixes = self.saturations(runner).await?;
            run.saturation_rps = Some(saturation::of_all(&mixes));
            run.mixes = if mixes.len() > 1 { mixes } else { Vec::new() };
        }
        if poisson {
            let derived = run.saturation_rps.map(|rate| rate * self.settings.workload.load);
            run.rate_rps = given.or(derived).map(saturation::round);
        }
        let mut found = SearchResult::default();
        if !arms.is_empty() {
            phases.begin("search", 0);
            found = self.search(runner, &arms, run).await?;
        }
        run.search = found.candidates;
        run.arms = self.arms(&found.arrangements);
        self.cut(runner, took, run);
        runner.keep_costs().await
    }

    fn repetition(&self, run: &RunInfo, seed: u64) -> Result<Repetition, DriveError> {
        let made = |requests: u32, seed: u64| paced(&self.share(requests), run).generate(self.vocab_size, seed, run.rate_rps);
        let (Some(RunRepetition { requests, lead_in_s }), Some(rate)) = (run.repetition, run.rate_rps) else {
            return Ok(Repetition::whole(made(self.effort.requests, seed)));
        };
        let around = (lead_in_s * rate).ceil() as u32;
        let of = |requests: u32, purpose: &str| made(requests, pair::seeds(seed, purpose, 1)[0]);
        let stretches = [of(around, "lead-in"), made(requests, seed), of(around, "lead-out")];
        let spans = stretches.each_ref().map(|items| Micros::from_secs(items.len() as f64 / rate));
        Ok(Repetition::amid(stretches, spans))
    }
}

/// So many of the requests that were asked for, in the same proportions.
fn share(mix: &Workload, requests: u32) -> Workload {
    let share = f64::from(requests) / mix.requests().max(1) as f64;
    if share < 1.0 { mix.scaled(share) } else { mix.clone() }
}

/// The arrangements of a repetition, with the control. Tokens are compared with those of one engine.
fn arms_of(run: &RunSettings, arms: &[Arm], pools: &Pools, found: &BTreeMap<Arm, Arrangement>) -> Vec<Arrangement> {
    let first = run.exact.then_some(Arm::OneEngine);
    pair::with_control(first.iter().chain(arms).map(|&arm| pools.arm(arm, found)).collect())
}

/// The workload with the same load in all its parts, as far as the run knows what each of them can take.
fn paced(workload: &Workload, run: &RunInfo) -> Workload {
    let Some(whole) = run.saturation_rps.filter(|_| !run.mixes.is_empty()) else { return workload.clone() };
    let paces: Vec<f64> = run.mixes.iter().map(|mix| mix.saturation_rps / whole).collect();
    workload.paced(&paces)
}
