//! The target `dynamic_router`: which engine gets a request, when all engines are alike? The router against round robin and least load,
//! one workload after the other, each with arms, control and intervals of its own.
//!
//! Every arm has the same engines with the same scheduler settings and no pools: whatever differs, differs by routing alone.

mod demand;

use anyhow::Context;
use async_trait::async_trait;
use thiserror::Error;

use dualpool_fleet::Fleet;
use dualpool_fleet::Progress;
use dualpool_report::measure::{quantile, sorted, ttft_ms};
use dualpool_report::overview;
use dualpool_types::artifact::{Environment, RunInfo, RunRepetition, RunWorkload};
use dualpool_types::{Arrangement, Class, EngineInfo, Failure, Micros, PolicyKind, RouterArm, Tuning, UserError};
use dualpool_workload::{ModelLimits, WorkItem};

use crate::cut::cut;
use crate::drive::{ArmRunner, DriveError, Pace, Work};
use crate::flags::{SettingFlag, flag};
use crate::idle;
use crate::phases::Phases;
use crate::plan::{self, Plan, PlannedWorkload};
use crate::run::{Benchmark, Effort, Measurement, Outcome, Paired, Repetition};
use crate::saturation::{self, DRAINS, Saturation};
use crate::target::{Call, Flags, Planner, Prepared, Target};
use crate::traffic::{Traffic, work_us};
use crate::{Begin, Cancel, RunSettings, Settings, WorkloadKind, pair};
use demand::{Demand, PROBE_TOKENS, upfront};

/// Requests of the warm-up per engine. They come all at once: first steps are slow, whatever is in them.
const WARM_UP_REQUESTS: u32 = 4;

/// Long prompts per engine, one at a time, that tell how fast the engines are.
const PROBES: usize = 2;

/// The policies that compete for the saturation.
const SATURATING: [PolicyKind; 2] = [PolicyKind::RoundRobin, PolicyKind::LeastLoad];

/// Arms were named, and they are another target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("run.arms (--arms) are arms of dual_pool; the arms of dynamic_router are policies: use --policies")]
pub struct ArmsOfDualPool;

impl UserError for ArmsOfDualPool {
    fn hint(&self) -> &'static str {
        "`dualpool list-targets` says what each target does"
    }
}

/// What the vocabulary is, only the engines know; where only lengths are looked at any will do.
fn any_model(settings: &Settings) -> ModelLimits {
    ModelLimits { vocab_size: u32::MAX, max_model_len: settings.engine.max_model_len }
}

/// The workloads of settings that passed all checks.
fn checked(settings: &Settings) -> Result<Vec<WorkloadKind>, Failure> {
    settings.check()?;
    if settings.run.arms != RunSettings::default().arms {
        return Err(ArmsOfDualPool.into());
    }
    let kinds = settings.dynamic_router.chosen();
    kinds.iter().try_for_each(|&kind| Demand::new(kind, settings).check(any_model(settings)))?;
    Ok(kinds)
}

/// Checks the settings and makes the run's folders. Engines take long to start: call this before.
pub fn prepare(settings: &Settings, command: &[String], begin: Begin) -> Result<Paired, Failure> {
    let kinds = checked(settings)?;
    let benchmarks = kinds.into_iter().map(|kind| (kind.name(), Box::new(Served(kind)) as Box<dyn Benchmark>));
    Paired::of_workloads(DynamicRouter.name(), settings, command.to_vec(), begin, benchmarks.collect())
}

/// What `run` would do by these settings.
fn plan(settings: &Settings) -> Result<Plan, Failure> {
    let kinds = checked(settings)?;
    let planned = |&kind: &WorkloadKind| {
        let (effort, whole, requests) = sized(kind, settings, any_model(settings))?;
        let demand = whole.cut(effort.requests, requests);
        let (items, _) = demand.items(any_model(settings), settings.workload.seed)?;
        let arrivals = match effort.pace {
            Pace::OneByOne => "one at a time".to_string(),
            Pace::OpenLoop if demand.has_rate() => plan::at_a_rate(&settings.workload),
            Pace::OpenLoop => format!("{} arrivals", demand.arrivals()),
        };
        anyhow::Ok(PlannedWorkload { name: kind.name(), requests: plan::in_words(&items), arrivals })
    };
    let workloads = kinds.iter().map(planned).collect::<anyhow::Result<_>>()?;
    let parts: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    let arms = pair::with_control(arms_of(settings, settings.pools.engines())?);
    Ok(Plan::new(DynamicRouter.name(), settings, &parts, &arms, workloads)?)
}

/// How much a run does of a workload, the workload as it was asked for, and its requests.
fn sized(kind: WorkloadKind, settings: &Settings, model: ModelLimits) -> anyhow::Result<(Effort, Demand, usize)> {
    let whole = Demand::new(kind, settings);
    let requests = whole.items(model, 0)?.0.len();
    Ok((Effort::of(&settings.run, requests, kind == WorkloadKind::Mixed), whole, requests))
}

/// Every arm has all engines alike.
fn alike(name: &str, policy: PolicyKind, settings: &Settings, engines: usize) -> Arrangement {
    Arrangement::shared(name, policy, engines, Tuning::default()).long_prompts_from(settings.router.prefill_ctx_thresh)
}

/// The arms that were asked for.
fn arms_of(settings: &Settings, engines: usize) -> anyhow::Result<Vec<Arrangement>> {
    let arrangement = |name: &String| {
        let arm = RouterArm::find(name)?;
        let policy = match arm {
            RouterArm::Policy(policy) => policy,
            RouterArm::Configured => settings.router.policy,
        };
        Ok(alike(arm.name(), policy, settings, engines))
    };
    settings.dynamic_router.arms.iter().map(arrangement).collect()
}

/// The whole target, on engines that are up already. One outcome per workload.
pub async fn run(
    fleet: &Fleet,
    environment: Environment,
    settings: &Settings,
    command: Vec<String>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<Outcome>, Failure> {
    prepare(settings, &command, Begin::Anew)?.measure(fleet, environment, progress, cancel).await
}

pub struct DynamicRouter;

impl Target for DynamicRouter {
    fn name(&self) -> &'static str {
        "dynamic_router"
    }

    fn about(&self) -> &'static str {
        "the router against round robin and least load, on engines that are all alike, under workloads that tell them apart"
    }

    fn file(&self) -> Option<&'static str> {
        Some(overview::FILE)
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
const FLAGS: [SettingFlag; 8] = [
    flag("policies", "dynamic_router.arms", "LIST", "Arms of dynamic_router: policies, and dynamic_router for the one of --policy"),
    flag("workload", "dynamic_router.workloads", "LIST", "Workloads of dynamic_router: mixed, two_wave_imbalance, prefix_sessions, trace [default: the trace where --trace names one, else the other three]"),
    flag("requests", "dynamic_router.requests", "N", "Requests of a repetition of mixed"),
    flag("rounds", "dynamic_router.rounds", "N", "Rounds of a repetition of two_wave_imbalance"),
    flag("sessions", "dynamic_router.sessions", "N", "Conversations of a repetition of prefix_sessions"),
    flag("trace", "dynamic_router.trace", "FILE", "A trace to replay: Azure CSV, Mooncake JSONL or dualpool JSONL [default: none]"),
    flag("replay-speed", "dynamic_router.replay_speed", "FACTOR", "2 replays the trace in half of its time"),
    flag("limit", "dynamic_router.limit", "N", "Requests of the trace that are replayed at most; 0 = all"),
];

/// One workload.
#[derive(Debug)]
struct Served(WorkloadKind);

impl Benchmark for Served {
    fn measurement<'a>(
        &'a self,
        settings: &'a Settings,
        engines: &[EngineInfo],
        runner: &ArmRunner<'_>,
    ) -> anyhow::Result<Box<dyn Measurement + 'a>> {
        let max_model_len = engines.iter().map(|e| e.max_model_len).min().context("there are no engines")?;
        let vocab_size = engines.iter().map(|e| e.vocab_size).min().context("there are no engines")?;
        let model = ModelLimits { vocab_size, max_model_len };
        let (effort, whole, requests) = sized(self.0, settings, model)?;
        // Read once before the measurement, so that a trace that breaks off does not break a run off.
        if let (_, Some(report)) = whole.items(model, 0)? {
            runner.note(format!("The trace {}: {report}.", settings.dynamic_router.trace.display()));
        }
        if self.0 == WorkloadKind::PrefixSessions && !settings.engine.enable_prefix_caching {
            runner.note("engine.enable_prefix_caching is false: no turn finds anything of the one before.".to_string());
        }
        let arms = arms_of(settings, engines.len())?;
        Ok(Box::new(Routed { kind: self.0, settings, engines: engines.len(), model, arms, effort, requests, whole }))
    }
}

/// The settings of one workload's measurement, worked out for these engines.
struct Routed<'a> {
    kind: WorkloadKind,
    settings: &'a Settings,
    engines: usize,
    model: ModelLimits,
    arms: Vec<Arrangement>,
    effort: Effort,
    /// The workload as it was asked for, and its requests.
    whole: Demand,
    requests: usize,
}

impl Routed<'_> {
    fn arm(&self, name: &str, policy: PolicyKind) -> Arrangement {
        alike(name, policy, self.settings, self.engines)
    }

    /// Requests of all lengths through every engine. Returns how long one takes when a few others are on its engine, and how many there were.
    async fn first_requests(&self, runner: &ArmRunner<'_>) -> Result<(Micros, usize), DriveError> {
        let share = f64::from(WARM_UP_REQUESTS) * self.engines as f64 / f64::from(self.settings.dynamic_router.requests.max(1));
        let mixed = Demand::new(WorkloadKind::Mixed, self.settings).scaled(share);
        // Where prompts as long as those of `mixed` do not fit, the workload itself has to do.
        let warm = if mixed.check(self.model).is_ok() { mixed } else { self.share(self.effort.requests).scaled(share) };
        let items = upfront(self.made(&warm, "warm-up")?);
        let warm_up = self.arm("warm-up", PolicyKind::RoundRobin);
        let requests = runner.run("warm-up", &warm_up, 0, Work::open_loop(&items)).await?.requests;
        let took = sorted(requests.iter().map(|request| (request.ended_us - request.arrived_us).as_ms()));
        Ok((Micros::from_ms(quantile(&took, 0.5).unwrap_or_default()), requests.len()))
    }

    /// How long an engine takes for a long prompt that is alone on it.
    async fn probe(&self, runner: &ArmRunner<'_>) -> Result<Micros, DriveError> {
        let tokens = PROBE_TOKENS.min(self.model.max_model_len - 1);
        let (low, high) = (self.model.vocab_size / 2, self.model.vocab_size);
        // No two of them begin alike, so that none finds anything in a cache.
        let prompt = |i: u32| (0..tokens).map(|n| low + (n.wrapping_mul(31).wrapping_add(i)) % (high - low)).collect();
        let items: Vec<WorkItem> =
            (0..(PROBES * self.engines) as u32).map(|i| WorkItem::new(i, Micros::ZERO, prompt(i), 1, Class::Long)).collect();
        let work = Work::all(&items, Pace::OneByOne);
        let recording = runner.run("one long prompt at a time", &self.arm("probe", PolicyKind::RoundRobin), 0, work).await?;
        let ttfts = sorted(recording.requests.iter().filter_map(ttft_ms));
        let middle = quantile(&ttfts, 0.5).ok_or(DriveError::NoSaturation)?;
        // One prompt shorter than the workload's times are about takes as much less.
        Ok(Micros::from_ms(middle * f64::from(PROBE_TOKENS) / f64::from(tokens)))
    }

    async fn saturation(&self, runner: &ArmRunner<'_>, request_s: f64) -> Result<Saturation, DriveError> {
        let (budget, quick) = (runner.budget(), self.settings.run.quick);
        let share = saturation::drain_share(budget, quick, SATURATING.len(), self.requests, request_s);
        let part = self.whole.scaled(share);
        let drain = |number: u32| Ok(upfront(self.made(&part, &format!("saturation {number}"))?));
        let drains = (0..DRAINS).map(drain).collect::<Result<Vec<_>, DriveError>>()?;
        let arms = SATURATING.map(|policy| self.arm(policy.name(), policy));
        saturation::find(runner, &arms, &drains).await
    }

    /// About so many of the requests that were asked for.
    fn share(&self, requests: u32) -> Demand {
        self.whole.cut(requests, self.requests)
    }

    /// The same at the run's pace and rate.
    fn offered(&self, requests: u32, run: &RunInfo) -> Demand {
        let pace = run.workload.as_ref().and_then(|workload| workload.pace);
        let demand = pace.map_or(self.share(requests), |pace| self.share(requests).paced(pace));
        run.rate_rps.map_or(demand.clone(), |rate| demand.at_rate(rate))
    }

    /// Leaves out what there is no time for. `took`: what a request takes.
    async fn cut(&self, runner: &ArmRunner<'_>, took: Micros, run: &mut RunInfo) -> Result<(), DriveError> {
        let items = self.offered(self.effort.requests, run).items(self.model, 0).map_err(DriveError::Workload)?.0;
        let last = items.last().map(|item| item.at.as_secs()).unwrap_or_default();
        // What arrives faster than the engines compute takes as long as they do.
        let busy = work_us(&items, &runner.costs().await?) * items.len() as f64 / self.engines as f64 / 1e6;
        let load = run.saturation_rps.zip(run.rate_rps).map_or(self.settings.workload.load, |(most, rate)| rate / most);
        let traffic = Traffic::new(items.len() as f64 / last.max(busy), load, took, false);
        let whole = |requests| self.whole.whole(requests, self.requests);
        let requests = cut(runner, &mut run.arms, self.effort.requests, whole, |requests| traffic.run_s(requests));
        if requests < self.effort.requests {
            run.repetition = Some(RunRepetition { requests, lead_in_s: 0.0 });
        }
        Ok(())
    }

    /// The requests of a run that is not measured.
    fn made(&self, demand: &Demand, purpose: &str) -> Result<Vec<WorkItem>, DriveError> {
        let seed = pair::seeds(self.settings.workload.seed, purpose, 1)[0];
        demand.items(self.model, seed).map(|(items, _)| items).map_err(DriveError::Workload)
    }
}

#[async_trait]
impl Measurement for Routed<'_> {
    fn effort(&self) -> Effort {
        self.effort
    }

    async fn warm_up(&self, runner: &ArmRunner<'_>, phases: &mut Phases<'_>) -> Result<(), DriveError> {
        phases.begin("warm-up", 1);
        self.first_requests(runner).await.map(drop)
    }

    async fn arrange(&self, runner: &ArmRunner<'_>, run: &mut RunInfo, phases: &mut Phases<'_>) -> Result<(), DriveError> {
        phases.begin("warm-up", 1);
        let (took, together) = self.first_requests(runner).await?;
        let mut pace = None;
        if !self.settings.run.exact {
            let in_turn = self.arm("idle", PolicyKind::RoundRobin);
            idle::settle_objectives(runner, &in_turn, self.settings, self.model, run, phases).await?;
            let given = (self.settings.workload.rate > 0.0).then_some(self.settings.workload.rate);
            let to_find = self.whole.has_rate() && given.is_none();
            phases.begin("calibration", 1 + if to_find { DRAINS * SATURATING.len() as u32 } else { 0 });
            pace = self.whole.pace(self.probe(runner).await?);
            if to_find {
                self.saturation(runner, took.as_secs() / together.max(1) as f64).await?.write(run);
            }
            if self.whole.has_rate() {
                let derived = run.saturation_rps.map(|rate| rate * self.settings.workload.load);
                run.rate_rps = given.or(derived).map(saturation::round);
            }
        }
        let name = self.kind.name().to_string();
        run.workload = Some(RunWorkload { name, arrivals: self.whole.arrivals().to_string(), pace });
        run.arms = pair::with_control(self.arms.clone());
        runner.keep_costs().await?;
        self.cut(runner, took, run).await
    }

    fn repetition(&self, run: &RunInfo, seed: u64) -> Result<Repetition, DriveError> {
        let requests = run.repetition.map_or(self.effort.requests, |repetition| repetition.requests);
        let items = self.offered(requests, run).items(self.model, seed).map_err(DriveError::Workload)?.0;
        Ok(Repetition::whole(items))
    }
}
