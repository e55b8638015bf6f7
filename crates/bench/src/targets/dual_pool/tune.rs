//! How the target decides on rate and arrangements: what the fleet can take, what is best for the arms that are to be tuned, and, where the
//! figures of a run tell nothing of them apart, at which load they would.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dualpool_router::CostModel;
use dualpool_types::artifact::{RunInfo, RunMix};
use dualpool_types::{Arm, Arrangement, Micros};
use dualpool_workload::mix_name;

use super::{SATURATING, Split, WARM_UP_SCALE};
use crate::budget::REQUESTS_MIN;
use crate::drive::{ArmRunner, DriveError};
use crate::saturation::{self, DRAINS, Saturation};
use crate::search::{self, Forecast, SearchResult, TrialSetup};
use crate::traffic::Traffic;
use crate::{idle, pair, parting};

/// The share of the search's time that `--quick` leaves.
const QUICK_SEARCH: f64 = 1.0 / 3.0;

/// A trial has at least this share of the workload's requests, and never fewer than a repetition has: with fewer it says nothing.
const TRIAL_SCALE_MIN: f64 = 0.125;

/// What the search may take of the time that is left.
const SEARCH_SHARE: f64 = 0.3;

/// A step that is to keep the ITL objective is sized for this share of it; the rest is for what the cost model does not know.
const STEP_SHARE_OF_ITL: f64 = 0.9;

impl Split<'_> {
    /// Finds what the fleet can take, mix by mix, as they differ in the work that a request makes.
    pub(super) async fn saturate(&self, runner: &ArmRunner<'_>, took: Micros, run: &mut RunInfo) -> Result<(), DriveError> {
        // The requests of the warm-up were all served at the same time.
        let request_s = took.as_secs() / self.mix.scaled(WARM_UP_SCALE).requests().max(1) as f64;
        let (quick, requests) = (self.settings.run.quick, self.mix.requests());
        let share = saturation::drain_share(runner.budget(), quick, SATURATING.len(), requests, request_s);
        let arms = SATURATING.map(|arm| self.pools.arm(arm, &BTreeMap::new()));
        let seeds = pair::seeds(self.settings.workload.seed, "saturation", DRAINS);
        let (mut parts, mut mixes) = (Vec::new(), Vec::new());
        let served = self.share(self.effort.requests);
        for ((mix, part), (_, served)) in self.mix.parts().zip(served.parts()) {
            let part = part.scaled(share).upfront();
            let drains: Vec<_> = seeds.iter().map(|&seed| part.generate(self.vocab_size, seed, None)).collect();
            let saturation = saturation::find(runner, &arms, &drains).await?;
            let requests = served.requests() as u32;
            parts.push((requests, saturation));
            mixes.push(RunMix { name: mix_name(mix).into(), requests, saturation_rps: saturation.rps });
        }
        Saturation::of_all(&parts).write(run);
        run.mixes = if mixes.len() > 1 { mixes } else { Vec::new() };
        Ok(())
    }

    /// Searches for the arrangements of these arms.
    pub(super) async fn search(
        &self,
        runner: &ArmRunner<'_>,
        arms: &[Arm],
        traffic: Traffic,
        run: &RunInfo,
    ) -> Result<SearchResult, DriveError> {
        let settings = &self.settings.run;
        let given = Duration::from_secs(settings.search_budget_s);
        let budget = runner.budget().map_or(given, |budget| given.min(budget.left().mul_f64(SEARCH_SHARE)));
        let begun = Instant::now();
        let costs = self.costs(runner, run).await?;
        let step = Micros::from_ms(runner.objectives().itl_ms * STEP_SHARE_OF_ITL);
        let short = self.settings.workload.short_prompt_tokens;
        let mut candidates = search::candidates(&self.pools, &self.engine, short, costs.batched_tokens_within(step));
        candidates.retain(|c| self.kv_transfer || !c.policy.moves_kv());
        let all = self.mix.requests() as u32;
        let forecasts = self.forecasts(runner, candidates, traffic.lead_in_s(all), run).await?;
        let idle_s = runner.findings().idle().as_secs_f64();
        let trials = TrialSetup {
            make: &|requests, seed| self.amid(requests, traffic.lead_in_s(requests), run, seed),
            seconds: &|requests| traffic.run_s(requests) + idle_s,
            requests: ((f64::from(all) * TRIAL_SCALE_MIN).ceil() as u32).max(REQUESTS_MIN).min(all)..=all,
            seed: self.settings.workload.seed,
            budget: if settings.quick { budget.mul_f64(QUICK_SEARCH) } else { budget }.saturating_sub(begun.elapsed()),
        };
        search::search(runner, forecasts, arms, &trials).await
    }

    /// What these engines cost: as their idle times say, as far as those were measured, else as the router has learned while they warmed up and
    /// were calibrated. The router learns slowly, and begins with a machine that may be many times slower.
    async fn costs(&self, runner: &ArmRunner<'_>, run: &RunInfo) -> Result<CostModel, DriveError> {
        let learned = runner.costs().await?;
        Ok(run.idle.map_or(learned, |idle| idle::costs(&idle, &self.settings.workload, learned)))
    }

    /// What a simulation of these engines says of the arrangements, under this run's requests.
    async fn forecasts(
        &self,
        runner: &ArmRunner<'_>,
        arrangements: Vec<Arrangement>,
        lead_in_s: f64,
        run: &RunInfo,
    ) -> Result<Vec<Forecast>, DriveError> {
        let (all, costs) = (self.mix.requests() as u32, self.costs(runner, run).await?);
        let seeds = pair::seeds(self.settings.workload.seed, "forecast", search::FORECAST_REPETITIONS);
        let repetitions: Vec<_> = seeds.iter().map(|&seed| self.amid(all, lead_in_s, run, seed)).collect();
        let (engine, wanted) = (self.engine.clone(), runner.objectives());
        // A second or two of one core: on a thread of its own, so that nothing else waits for it.
        let work = move || search::forecast(arrangements, &engine, costs, &repetitions, &wanted);
        let forecasts = tokio::task::spawn_blocking(work).await.map_err(anyhow::Error::from).and_then(|made| Ok(made?));
        forecasts.map_err(DriveError::Forecast)
    }

    /// Simulates this run's arms at rising loads, until they part.
    pub(super) async fn foresee_parting(&self, runner: &ArmRunner<'_>, run: &mut RunInfo) -> Result<(), DriveError> {
        let (Some(saturation), Some(rate)) = (run.saturation_rps, run.rate_rps) else { return Ok(()) };
        let began = Instant::now();
        for load in parting::loads_above(rate / saturation).take_while(|_| began.elapsed() < parting::TIME_MAX) {
            let rate = saturation::round(saturation * load);
            let at_load = RunInfo { rate_rps: Some(rate), ..run.clone() };
            // Near and above saturation a queue remembers all that came before.
            let lead_in_s = if self.mix.is_steady() { self.mix.requests() as f64 / rate } else { 0.0 };
            let forecasts = self.forecasts(runner, parting::simulated(&run.arms), lead_in_s, &at_load).await?;
            if let Some(parts_at) = parting::parted(load, &forecasts) {
                runner.note(parting::note(&parts_at));
                run.parts_at = Some(parts_at);
                break;
            }
        }
        Ok(())
    }
}
