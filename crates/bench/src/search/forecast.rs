//! Which of many arrangements are worth a trial on the engines: each is simulated on engines that cost what the router has learned of
//! these, with the very policy code that serves. A trial takes seconds of two engines and sees a few dozen requests; a forecast takes
//! milliseconds and sees hundreds, but knows the engines by five numbers only. So the forecast picks the field, and trials the winner.

use std::collections::BTreeSet;

use dualpool_model::VirtualSettings;
use dualpool_router::CostModel;
use dualpool_sim::SimError;
use dualpool_types::{Arm, Arrangement, EngineInfo, Request, Time};
use dualpool_workload::{ObjectiveSettings, WorkItem};

use super::Score;

/// Simulated repetitions per arrangement.
pub const FORECAST_REPETITIONS: u32 = 4;

/// Best forecasts of each arm that are tried on the engines.
const TRIED: usize = 2;

/// An arrangement and what the simulation says of it.
#[derive(Clone, Debug)]
pub struct Forecast {
    pub arrangement: Arrangement,
    pub score: Score,
}

/// Scores every arrangement on the same workloads.
pub fn forecast(
    candidates: Vec<Arrangement>,
    engine: &EngineInfo,
    costs: CostModel,
    workloads: &[Vec<WorkItem>],
    wanted: &ObjectiveSettings,
) -> Result<Vec<Forecast>, SimError> {
    let machine = VirtualSettings::like(engine, dualpool_sim::timing(&costs));
    let workloads: Vec<Vec<(Time, Request)>> = workloads.iter().map(|items| requests(items, wanted)).collect();
    let mut forecasts = Vec::with_capacity(candidates.len());
    for arrangement in candidates {
        let mut served = Vec::new();
        for (seed, requests) in workloads.iter().enumerate() {
            served.extend(dualpool_sim::serve(&arrangement, &machine, costs, requests, seed as u64)?);
        }
        forecasts.push(Forecast { arrangement, score: Score::of(&served) });
    }
    Ok(forecasts)
}

/// The places of those that are worth a trial: for each arm its best forecasts, and the first one it accepts, which is known to
/// be good on real engines and guards against a forecast that is far off.
pub fn shortlist(forecasts: &[Forecast], arms: &[Arm]) -> BTreeSet<usize> {
    let mut short = BTreeSet::new();
    for arm in arms {
        let mut accepted: Vec<usize> = (0..forecasts.len()).filter(|&i| arm.takes(forecasts[i].arrangement.policy)).collect();
        short.extend(accepted.first());
        // Equal forecasts keep their order.
        accepted.sort_by(|&a, &b| forecasts[b].score.score.total_cmp(&forecasts[a].score.score));
        short.extend(accepted.into_iter().take(TRIED));
    }
    short
}

fn requests(items: &[WorkItem], wanted: &ObjectiveSettings) -> Vec<(Time, Request)> {
    items.iter().map(|item| item.clone().asked(wanted.of(item.class))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::candidates::{self, tests as fleet};
    use super::*;
    use dualpool_types::PolicyKind;
    use dualpool_workload::{Workload, WorkloadSettings};

    fn forecasts(itl_ms: f64) -> Vec<Forecast> {
        let costs = CostModel::default();
        let engine = fleet::engine(2048);
        let candidates = candidates::candidates(&fleet::pools(), &engine, 64, 200);
        let workload = Workload::new(&WorkloadSettings::default());
        let workloads: Vec<_> = (0..2).map(|seed| workload.generate(1000, seed, Some(7.5))).collect();
        forecast(
            candidates,
            &engine,
            costs,
            &workloads,
            &ObjectiveSettings { ttft_short_ms: 500.0, ttft_long_ms: 3_000.0, itl_ms, ..Default::default() },
        )
        .unwrap()
    }

    #[test]
    fn the_forecast_knows_a_tuned_engine_from_one_that_is_not() {
        let forecasts = forecasts(200.0);
        let of = |name: &str| forecasts.iter().find(|f| f.arrangement.name == name).unwrap().score.goodput_share;
        assert!(of("balanced 224/64") > of("least_load as started") + 0.1);
        assert!(of("dual_pool prefill 256/0 decode 144/0") > of("full_disaggregation prefill as started decode as started") + 0.1);
    }

    #[test]
    fn every_purpose_has_its_known_point_and_its_best_forecasts_on_the_shortlist() {
        let forecasts = forecasts(50.0);
        let arms: Vec<Arm> = Arm::searched_for().collect();
        let short = shortlist(&forecasts, &arms);
        assert!(short.len() <= (1 + TRIED) * arms.len(), "{short:?}");
        assert!(short.contains(&0), "the known shared point");
        let best = (0..forecasts.len()).max_by(|&a, &b| forecasts[a].score.score.total_cmp(&forecasts[b].score.score)).unwrap();
        assert!(short.iter().any(|&i| forecasts[i].score.score >= forecasts[best].score.score));
        assert!(short.iter().any(|&i| forecasts[i].arrangement.policy == PolicyKind::DualPool));
    }
}
