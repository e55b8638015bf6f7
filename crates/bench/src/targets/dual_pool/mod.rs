//! The target `dual_pool`: what it checks beforehand, and how it decides on the rate and the arms. The rest is every target's: `run`.

mod tune;

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use async_trait::async_trait;

use dualpool_fleet::Fleet;
use dualpool_fleet::Progress;
use dualpool_report::measure::{quantile, sorted};
use dualpool_types::artifact::{Environment, RunInfo, RunRepetition, Summary};
use dualpool_types::{Arm, Arrangement, EngineInfo, Failure, Micros};
use dualpool_workload::{Arrivals, ModelLimits, Workload, mix_name};

use crate::arms::{self, Pools};
use crate::cut::cut;
use crate::drive::{ArmRunner, DriveError, Pace, Work};
use crate::flags::{SettingFlag, flag};
use crate::idle;
use crate::phases::Phases;
use crate::plan::{self, Plan, PlannedWorkload};
use crate::run::{Benchmark, Effort, Measurement, Outcome, Paired, Repetition};
use crate::saturation::{self, DRAINS};
use crate::search::SearchResult;
use crate::target::{Call, Flags, Planner, Prepared, Target};
use crate::traffic::Traffic;
use crate::{Begin, Cancel, RunSettings, Settings, folder, pair, parting};

/// The share of the workload's requests for the warm-up.
const WARM_UP_SCALE: f64 = 0.1;

/// The arms that compete for the saturation.
const SATURATING: [Arm; 2] = [Arm::SharedRoundRobin, Arm::SharedLeastLoad];

fn check(settings: &Settings) -> Result<(), Failure> {
    settings.check()?;
    Ok(dualpool_workload::check(&settings.workload, settings.engine.max_model_len)?)
}

/// Checks the settings and makes the run folder. Engines take long to start: call this before.
pub fn prepare(settings: &Settings, command: &[String], begin: Begin) -> Result<Paired, Failure> {
    prepare_as(DualPool.name(), settings, command, begin)
}

/// The same under the name of another target.
pub(crate) fn prepare_as(target: &str, settings: &Settings, command: &[String], begin: Begin) -> Result<Paired, Failure> {
    check(settings)?;
    Paired::of_one(target, settings, command.to_vec(), begin, Box::new(DualPool))
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
    let mut outcomes = prepare(settings, &command, Begin::Anew)?.measure(fleet, environment, progress, cancel).await?;
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

    fn goes_on(&self) -> bool {
        true
    }

    fn plan(&self) -> Option<Planner> {
        Some(plan)
    }

    fn prepare(&self, call: &Call) -> Result<Prepared, Failure> {
        Ok(Prepared::OnFleet(Box::new(prepare(call.settings, call.command, call.begin)?)))
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
    async fn first_requests(&self, runner: &ArmRunner<'_>, phases: &mut Phases<'_>) -> Result<Micros, DriveError> {
        phases.begin("warm-up", 1 + u32::from(self.kv_transfer));
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

    /// The run's requests as they keep arriving. `took`: what a request takes.
    fn traffic(&self, took: Micros, run: &RunInfo) -> Traffic {
        let Some(rate) = run.rate_rps else {
            // Requests that arrive all at once are served as fast as the engines can.
            return Traffic::new(run.saturation_rps.or(self.rate_given()).unwrap_or(1.0), 0.0, took, false);
        };
        let load = run.saturation_rps.map_or(self.settings.workload.load, |saturation| rate / saturation);
        Traffic::new(rate, load, took, self.mix.is_steady())
    }

    /// Leaves out what there is no time for, and decides on the lead-in.
    fn cut(&self, runner: &ArmRunner<'_>, traffic: Traffic, run: &mut RunInfo) {
        if run.rate_rps.or(run.saturation_rps).is_none() {
            return;
        }
        let all = self.share(self.effort.requests).requests() as u32;
        let whole = |requests| self.share(requests).requests() as u32;
        let requests = cut(runner, &mut run.arms, all, whole, |requests| traffic.run_s(requests));
        if self.mix.is_steady() || requests < all {
            for (mix, (_, part)) in run.mixes.iter_mut().zip(self.share(requests).parts()) {
                mix.requests = part.requests() as u32;
            }
            run.repetition = Some(RunRepetition { requests, lead_in_s: traffic.lead_in_s(requests) });
        }
    }

    /// So many requests that count, with the same traffic before and behind them for so long.
    fn amid(&self, requests: u32, lead_in_s: f64, run: &RunInfo, seed: u64) -> Repetition {
        let made = |requests: u32, seed: u64| paced(&self.share(requests), run).generate(self.vocab_size, seed, run.rate_rps);
        let Some(rate) = run.rate_rps.filter(|_| lead_in_s > 0.0) else { return Repetition::whole(made(requests, seed)) };
        let around = (lead_in_s * rate).ceil() as u32;
        let of = |purpose: &str| made(around, pair::seeds(seed, purpose, 1)[0]);
        let stretches = [of("lead-in"), made(requests, seed), of("lead-out")];
        let spans = stretches.each_ref().map(|items| Micros::from_secs(items.len() as f64 / rate));
        Repetition::amid(stretches, spans)
    }

    /// The rate that the user asked for.
    fn rate_given(&self) -> Option<f64> {
        Some(self.settings.workload.rate).filter(|&rate| rate > 0.0)
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

    async fn warm_up(&self, runner: &ArmRunner<'_>, phases: &mut Phases<'_>) -> Result<(), DriveError> {
        self.first_requests(runner, phases).await.map(drop)
    }

    async fn arrange(&self, runner: &ArmRunner<'_>, run: &mut RunInfo, phases: &mut Phases<'_>) -> Result<(), DriveError> {
        let took = self.first_requests(runner, phases).await?;
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
            phases.begin("calibration", DRAINS * (SATURATING.len() * self.mix.parts().len()) as u32);
            self.saturate(runner, took, run).await?;
        }
        if poisson {
            let derived = run.saturation_rps.map(|rate| rate * self.settings.workload.load);
            run.rate_rps = given.or(derived).map(saturation::round);
        }
        // What all trials and all arms start with.
        runner.keep_costs().await?;
        let traffic = self.traffic(took, run);
        let mut found = SearchResult::default();
        if !arms.is_empty() {
            phases.begin("search", 0);
            found = self.search(runner, &arms, traffic, run).await?;
        }
        run.search = found.candidates;
        run.known_points = found.known_points.iter().map(|arm| arm.name().to_string()).collect();
        let mut arms: Vec<Arrangement> = self.arms.iter().map(|&arm| self.pools.arm(arm, &found.arrangements)).collect();
        run.stands_for = arms::merge(&mut arms);
        for (arm, same) in &run.stands_for {
            let others = same.join(" and ");
            runner.note(format!("{others} came to the very arrangement of {arm}, which is measured once: {arm} stands for both."));
        }
        run.arms = pair::with_control(arms);
        self.cut(runner, traffic, run);
        Ok(())
    }

    async fn conclude(&self, runner: &ArmRunner<'_>, run: &mut RunInfo, summary: &Summary) -> Result<(), DriveError> {
        match parting::is_due(summary.arms.iter().map(|arm| (arm.name.as_str(), arm.goodput_share))) {
            true => self.foresee_parting(runner, run).await,
            false => Ok(()),
        }
    }

    fn repetition(&self, run: &RunInfo, seed: u64) -> Result<Repetition, DriveError> {
        let RunRepetition { requests, lead_in_s } =
            run.repetition.unwrap_or(RunRepetition { requests: self.effort.requests, lead_in_s: 0.0 });
        Ok(self.amid(requests, lead_in_s, run, seed))
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
