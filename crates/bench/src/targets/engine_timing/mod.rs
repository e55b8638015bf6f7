//! What an engine's steps cost, fitted to real ones (`dualpool calibrate --engine`): the timing that simulations and virtual engines go
//! by. The engines record every step themselves; here they are given things to do, and what they recorded is read and fitted.

mod fit;
mod plan;
mod result;
mod table;
pub mod trace;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use async_trait::async_trait;

use dualpool_engine::EngineSettings;
use dualpool_model::{Timing, VirtualSettings};
use dualpool_report::measure::{quantile, sorted, ttft_ms};
use dualpool_types::records::{RequestRecord, replace_json};
use dualpool_types::{Arrangement, EngineId, EngineInfo, Failure, PolicyKind, Tuning};
use dualpool_workload::ModelLimits;

use crate::Settings;
use crate::drive::{ArmRunner, DriveError, Work};
use crate::folder::{FolderError, Identity};
use crate::target::{Call, Done, OnFleet, Prepared, Session, Target, json};
use plan::Stage;
use table::table;
use trace::TracedStep;

pub use result::{ENGINE_TIMING_SCHEMA, EngineTiming, HeldOut};

/// The name of the file in the run's folder.
pub const FILE: &str = "engine_timing.json";

/// Every so many-th step is kept from the fit, and shows how good it is.
const HELD_OUT_EVERY: usize = 5;

/// Under `--quick` everything is repeated this share of times.
const QUICK_SHARE: f64 = 0.34;

pub struct EngineCalibration;

impl Target for EngineCalibration {
    fn name(&self) -> &'static str {
        "engine_timing"
    }

    fn about(&self) -> &'static str {
        "what a step costs on these engines, fitted to recorded ones: the timing that simulations go by (`calibrate --engine`)"
    }

    fn file(&self) -> Option<&'static str> {
        Some(FILE)
    }

    /// Makes the run's folder, in which the engines are to record their steps.
    fn prepare(&self, call: &Call) -> Result<Prepared, Failure> {
        let identity = Identity::now(self.name(), &call.settings.run.out);
        if identity.dir.join(FILE).exists() {
            return Err(FolderError::Taken { path: identity.dir }.into());
        }
        std::fs::create_dir_all(&identity.dir).map_err(|source| FolderError::Write { path: identity.dir.clone(), source })?;
        let mut settings = call.settings.clone();
        record_steps(&mut settings, &identity.dir)?;
        Ok(Prepared::OnFleet(Box::new(Calibration { identity, settings, command: call.command.to_vec() })))
    }
}

/// A calibration that passed all checks which need no engine.
struct Calibration {
    identity: Identity,
    settings: Settings,
    command: Vec<String>,
}

/// Engines started with these settings record their steps: where the user wants them, else in this folder.
pub(super) fn record_steps(settings: &mut Settings, folder: &Path) -> anyhow::Result<()> {
    if settings.engine.step_trace.as_os_str().is_empty() {
        // Engines have working folders of their own.
        settings.engine.step_trace = std::path::absolute(folder).context("the working folder cannot be named")?;
    }
    Ok(())
}

#[async_trait(?Send)]
impl OnFleet for Calibration {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Gives the engines everything to do that the fit needs, and writes what came of it.
    async fn run(self: Box<Self>, session: Session<'_>) -> Result<Done, Failure> {
        let runner = ArmRunner::new(session.fleet, &self.settings, session.cancel, session.progress);
        let share = if self.settings.run.quick { QUICK_SHARE } else { 1.0 };
        let observed = observe(&runner, session.fleet.engines(), &self.settings, self.settings.workload.seed, share).await?;
        let fitted = observed.fitted().with_context(|| no_steps(&self.settings.engine))?;
        let timing = EngineTiming {
            schema_version: ENGINE_TIMING_SCHEMA,
            target: EngineCalibration.name().into(),
            id: self.identity.id,
            started_at: self.identity.started_at,
            command: self.command,
            environment: session.environment,
            seed: self.settings.workload.seed,
            steps: observed.steps() as u64,
            engine: fitted.engine,
            held_out: fitted.held_out,
        };
        let path = self.identity.dir.join(FILE);
        replace_json(&path, &timing).map_err(|source| FolderError::Write { path: path.clone(), source })?;
        Ok(Done::whole(move |view| match view.json {
            true => json(&timing),
            false => Ok(format!("{}\nmeasured: {}\n", table(&timing, view.columns), path.display())),
        }))
    }

    fn abandon(self: Box<Self>) {
        // Fails, rightly, when the user's folder holds other things.
        let _ = std::fs::remove_dir(&self.identity.dir);
    }
}

pub(super) fn no_steps(settings: &EngineSettings) -> String {
    format!("the engines recorded no steps in {}; only vLLM's engines do", settings.step_trace.display())
}

/// What engines recorded while they had everything to do.
#[derive(Debug)]
pub(super) struct Observed {
    engine: EngineInfo,
    stages: Vec<(String, Vec<TracedStep>)>,
    /// From the sending of a leg to its engine and from the last of its steps to the client, beside the steps, in microseconds.
    round_trips_us: Vec<f64>,
    /// Tokens that were copied between engines, and how long that took in microseconds.
    copies: Vec<(f64, f64)>,
}

/// What was made of it.
#[derive(Debug)]
pub(super) struct Fitted {
    pub engine: VirtualSettings,
    pub held_out: Vec<HeldOut>,
}

impl Observed {
    fn steps(&self) -> usize {
        self.stages.iter().map(|(_, steps)| steps.len()).sum()
    }

    /// Adds what the same engines recorded later.
    pub(super) fn extend(&mut self, later: Observed) {
        for (name, steps) in later.stages {
            match self.stages.iter_mut().find(|(stage, _)| *stage == name) {
                Some((_, before)) => before.extend(steps),
                None => self.stages.push((name, steps)),
            }
        }
        self.round_trips_us.extend(later.round_trips_us);
        self.copies.extend(later.copies);
    }

    /// None where no step was recorded.
    pub(super) fn fitted(&self) -> Option<Fitted> {
        let (mut learnt, mut held_out) = (Vec::new(), Vec::new());
        for (name, steps) in &self.stages {
            let held = steps.iter().copied().enumerate().filter(|(i, _)| i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1);
            held_out.push((name, held.map(|(_, step)| step).collect::<Vec<_>>()));
            let kept = steps.iter().copied().enumerate().filter(|(i, _)| i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1);
            learnt.extend(kept.map(|(_, step)| step));
        }
        let steps = fit::fit(&learnt)?;
        let copies: Vec<_> = self.copies.iter().map(|&(tokens, us)| ([1.0, tokens], us)).collect();
        let [copy_us, copy_us_per_token] = crate::fit::fit(&copies).unwrap_or([0.0; 2]);
        let round_trip_us = quantile(&sorted(self.round_trips_us.iter().copied()), 0.5).unwrap_or(0.0).max(0.0);
        let timing = Timing { round_trip_us, copy_us, copy_us_per_token, ..steps };
        let held_out = held_out.into_iter().map(|(workload, steps)| {
            let errors = fit::errors(&timing, &steps);
            HeldOut {
                workload: workload.clone(),
                steps: steps.len() as u64,
                error_median: quantile(&errors, 0.5),
                error_p90: quantile(&errors, 0.9),
            }
        });
        Some(Fitted { engine: VirtualSettings::like(&self.engine, timing), held_out: held_out.collect() })
    }
}

/// Runs all stages on these engines, all of which are alike.
pub(super) async fn observe(
    runner: &ArmRunner<'_>,
    engines: &[EngineInfo],
    settings: &Settings,
    seed: u64,
    share: f64,
) -> anyhow::Result<Observed> {
    let Some(engine) = engines.first().cloned() else { bail!("there are no engines") };
    let count = engines.len() as u32;
    let model = ModelLimits { vocab_size: engine.vocab_size, max_model_len: engine.max_model_len };
    let mut traces = Traces::new(&settings.engine, engines);
    let mut observed = Observed { engine, stages: Vec::new(), round_trips_us: Vec::new(), copies: Vec::new() };
    let controlled = plan::controlled(count, model, observed.engine.max_num_seqs, seed, share)?;
    // The first steps of an engine's life are slow, and no fit should learn them.
    if let Some(first) = controlled.first() {
        serve(runner, count, first).await?;
        traces.skip()?;
    }
    for (i, stage) in controlled.iter().enumerate() {
        let records = serve(runner, count, stage).await?;
        let steps = traces.fresh()?;
        if i == 0 {
            observed.round_trips_us = round_trips(&records, &steps);
        }
        observed.stages.push((stage.name.clone(), steps.concat()));
    }
    let costs = runner.costs().await?;
    for stage in plan::mixed(count, model, &costs, seed, share)? {
        serve(runner, count, &stage).await?;
        observed.stages.push((stage.name, traces.fresh()?.concat()));
    }
    if count > 1 && engines.iter().all(|engine| engine.kv_transfer) {
        let stage = Stage { name: "hand-offs".into(), ..plan::mixed(count, model, &costs, seed ^ 1, share / 2.0)?.swap_remove(0) };
        let records = runner.run(&stage.name, &pools(count)?, 0, Work::all(&stage.items, stage.pace)).await?.requests;
        let copied = records.iter().flat_map(|record| record.handoffs.iter().map(move |handoff| (record, handoff)));
        observed.copies = copied
            .filter_map(|(record, handoff)| {
                let took = handoff.copy_wait_us?.0 + handoff.copy_us?.0;
                (!handoff.recomputed && handoff.bytes.0 > 0).then_some((f64::from(record.prompt_tokens), took as f64))
            })
            .collect();
        observed.stages.push((stage.name, traces.fresh()?.concat()));
    }
    Ok(observed)
}

/// All engines in turn, so that each has as much to do.
async fn serve(runner: &ArmRunner<'_>, engines: u32, stage: &Stage) -> Result<Vec<RequestRecord>, DriveError> {
    let arrangement = Arrangement::shared(&stage.name, PolicyKind::RoundRobin, engines as usize, stage.tuning);
    Ok(runner.run(&stage.name, &arrangement, 0, Work::all(&stage.items, stage.pace)).await?.requests)
}

/// Half of the engines prefill, the others decode.
fn pools(engines: u32) -> anyhow::Result<Arrangement> {
    let ids: Vec<EngineId> = (0..engines as u16).map(EngineId).collect();
    let (prefill, decode) = ids.split_at(ids.len() / 2);
    let (policy, untuned) = (PolicyKind::FullDisaggregation, Tuning::default());
    Ok(Arrangement::pools("hand-offs", policy, prefill, decode, ids.len(), untuned, untuned, 0)?)
}

/// Of requests that were served one at a time: the first token's time less the steps that made it.
fn round_trips(records: &[RequestRecord], steps: &[Vec<TracedStep>]) -> Vec<f64> {
    let mut left: Vec<_> = steps.iter().map(|steps| steps.iter()).collect();
    let mut trips = Vec::new();
    for record in records {
        let Some(steps) = record.legs.first().and_then(|leg| left.get_mut(leg.engine.index())) else { continue };
        let (mut computed, mut took_us) = (0, 0.0);
        while computed < record.prompt_tokens {
            let Some(step) = steps.next() else { return trips };
            computed += step.work.prompt_tokens;
            took_us += step.took_us;
        }
        steps.by_ref().take(record.token_us.len().saturating_sub(1)).for_each(drop);
        trips.extend(ttft_ms(record).map(|ttft| ttft * 1e3 - took_us));
    }
    trips
}

/// The files in which the engines record their steps, and how far they were read.
struct Traces {
    files: Vec<(PathBuf, usize)>,
}

impl Traces {
    fn new(settings: &EngineSettings, engines: &[EngineInfo]) -> Traces {
        Traces { files: engines.iter().filter_map(|engine| settings.step_trace_of(engine.id)).map(|path| (path, 0)).collect() }
    }

    /// By engine: the steps since the last call.
    fn fresh(&mut self) -> Result<Vec<Vec<TracedStep>>, trace::TraceError> {
        let fresh = |(path, read): &mut (PathBuf, usize)| {
            let steps = if Path::new(path).exists() { trace::read(path)? } else { Vec::new() };
            let fresh = steps.get(*read..).unwrap_or_default().to_vec();
            *read = steps.len();
            Ok(fresh)
        };
        self.files.iter_mut().map(fresh).collect()
    }

    fn skip(&mut self) -> Result<(), trace::TraceError> {
        self.fresh().map(drop)
    }
}
