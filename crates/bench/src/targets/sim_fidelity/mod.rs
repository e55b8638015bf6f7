//! The target `sim_fidelity`: how far simulations are off the engines they simulate. A timing is fitted to these engines' steps; then
//! engines and simulator serve the same requests by the same arrangements, none of which the fit has seen, and what clients get is
//! compared figure by figure. The engines serve everything twice: how far they are off themselves is what no simulation can be better than.

mod compare;
mod plan;
mod result;
mod table;

use anyhow::Context;
use async_trait::async_trait;

use dualpool_fleet::Recording;
use dualpool_model::VirtualSettings;
use dualpool_router::CostModel;
use dualpool_sim::{Faults, Simulation};
use dualpool_types::records::{RequestRecord, replace_json};
use dualpool_types::{Arrangement, Failure};
use dualpool_workload::ModelLimits;

use super::engine_timing;
use crate::Settings;
use crate::arms::Pools;
use crate::drive::{ArmRunner, Pace, Work};
use crate::folder::{self, FolderError, Identity, RunFolder};
use crate::target::{Call, Done, OnFleet, Prepared, Session, Target, json};
use plan::Case;
use table::table;

pub use result::{Figure, SIM_FIDELITY_SCHEMA, SimFidelity};

/// The name of the file in the run's folder.
pub const FILE: &str = "sim_fidelity.json";

/// The engines' steps are recorded before the comparison and after it, for a machine that drifts: this share of a calibration each time.
const OBSERVED_SHARE: f64 = 0.5;
const QUICK_SHARE: f64 = 0.2;

/// What the engines' second serving of a case is called, behind the name of the case.
const AGAIN: &str = " (again)";

pub struct FidelityCheck;

impl Target for FidelityCheck {
    fn name(&self) -> &'static str {
        "sim_fidelity"
    }

    fn about(&self) -> &'static str {
        "how far simulations are off these engines, on workloads that their timing was not fitted to"
    }

    fn file(&self) -> Option<&'static str> {
        Some(folder::REQUESTS)
    }

    /// Makes the run's folder, in which the engines are to record their steps.
    fn prepare(&self, call: &Call) -> Result<Prepared, Failure> {
        let folder = RunFolder::create(Identity::now(self.name(), &call.settings.run.out))?;
        let mut settings = call.settings.clone();
        engine_timing::record_steps(&mut settings, folder.dir())?;
        Ok(Prepared::OnFleet(Box::new(Check { settings, command: call.command.to_vec(), folder })))
    }
}

/// A comparison that passed all checks which need no engine.
struct Check {
    settings: Settings,
    command: Vec<String>,
    folder: RunFolder,
}

#[async_trait(?Send)]
impl OnFleet for Check {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Measures, simulates, compares, and writes what came of it: the engines' records to `requests.jsonl`, with the simulator's beside
    /// them as arms of their own.
    async fn run(mut self: Box<Self>, session: Session<'_>) -> Result<Done, Failure> {
        let runner = ArmRunner::new(session.fleet, &self.settings, session.cancel, session.progress);
        let engines = session.fleet.engines();
        let engine = engines.first().context("there are no engines")?;
        let model = ModelLimits { vocab_size: engine.vocab_size, max_model_len: engine.max_model_len };
        let pools = Pools::new(&self.settings.pools, &self.settings.router, engines.len())?;
        let share = if self.settings.run.quick { QUICK_SHARE } else { OBSERVED_SHARE };
        let seed = self.settings.workload.seed;

        let mut observed = engine_timing::observe(&runner, engines, &self.settings, seed, share).await?;
        runner.keep_costs().await?;
        let costs = runner.costs().await?;
        let cases = plan::cases(&pools, engines, model, &costs, seed, self.settings.run.quick)?;
        let measured = serve(&runner, &mut self.folder, &cases, "").await?;
        let again = serve(&runner, &mut self.folder, &cases, AGAIN).await?;
        observed.extend(engine_timing::observe(&runner, engines, &self.settings, seed + 1, share).await?);

        let fitted = observed.fitted().with_context(|| engine_timing::no_steps(&self.settings.engine))?;
        let modelled = vec![fitted.engine.clone(); engines.len()];
        let mut figures = Vec::new();
        for (case, (measured, again)) in cases.iter().zip(measured.iter().zip(&again)) {
            let simulated = self.simulate(case, &modelled, costs)?;
            figures.extend(compare::figures(case, measured, again, &simulated));
            self.folder.append(&Recording { requests: simulated, ..Recording::default() })?;
        }
        self.folder.end_samples()?;
        let result = SimFidelity {
            schema_version: SIM_FIDELITY_SCHEMA,
            target: FidelityCheck.name().into(),
            id: self.folder.id().into(),
            started_at: self.folder.started_at().into(),
            command: self.command,
            environment: session.environment,
            seed,
            engine: fitted.engine,
            held_out: fitted.held_out,
            summary: compare::summary(&figures),
            figures,
            notes: runner.findings().notes(),
        };
        let path = self.folder.dir().join(FILE);
        replace_json(&path, &result).map_err(|source| FolderError::Write { path: path.clone(), source })?;
        Ok(Done::whole(move |view| match view.json {
            true => json(&result),
            false => Ok(format!("{}\nmeasured: {}\n", table(&result, view.columns), path.display())),
        }))
    }

    fn abandon(self: Box<Self>) {
        self.folder.abandon();
    }
}

/// What the engines give the requests of all cases. Under a name of its own each serving starts with what the router knew at first.
async fn serve(
    runner: &ArmRunner<'_>,
    folder: &mut RunFolder,
    cases: &[Case],
    suffix: &str,
) -> anyhow::Result<Vec<Vec<RequestRecord>>> {
    let mut served = Vec::new();
    for case in cases {
        let name = format!("{}{suffix}", case.arrangement.name);
        let arrangement = Arrangement { name, ..case.arrangement.clone() };
        let work = Work::all(&case.items, Pace::OpenLoop);
        let recording = runner.run(&arrangement.name, &arrangement, 0, work).await?;
        folder.append(&recording)?;
        served.push(recording.requests);
    }
    Ok(served)
}

impl Check {
    /// What simulated engines give the same requests, under a name of its own.
    fn simulate(&self, case: &Case, engines: &[VirtualSettings], costs: CostModel) -> anyhow::Result<Vec<RequestRecord>> {
        let name = format!("{} (simulated)", case.arrangement.name);
        let arrangement = Arrangement { name, ..case.arrangement.clone() };
        let requests = case.items.iter().map(|item| item.clone().asked(self.settings.objectives.of(item.class)));
        let (router, seed) = (&self.settings.router, self.settings.workload.seed);
        let faults = Faults::default();
        let simulation = Simulation { engines, arrangement: &arrangement, router, costs, faults: &faults, seed };
        let mut records = Vec::with_capacity(case.items.len());
        simulation.serve(requests, |record| records.push(record))?;
        records.sort_unstable_by_key(|record| record.index);
        Ok(records)
    }
}
