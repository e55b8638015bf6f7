//! Which of many arrangements are worth a trial on the engines: each is simulated on engines that cost what the router has learned of
//! these, with the very policy code that serves. A trial takes seconds of two engines and sees a few dozen requests; a forecast takes
//! milliseconds and sees hundreds, but knows the engines by five numbers only. So the forecast picks the field, and trials the winner.

use dualpool_model::VirtualSettings;
use dualpool_router::CostModel;
use dualpool_sim::SimError;
use dualpool_types::{Arm, Arrangement, EngineInfo, Request, Time};
use dualpool_workload::ObjectiveSettings;

use super::Score;
use crate::run::Repetition;

/// Simulated repetitions per arrangement.
pub(crate) const FORECAST_REPETITIONS: u32 = 4;

/// Candidates of each arm that are tried on the engines, as many for each.
const TRIED: usize = 3;

/// An arrangement and what the simulation says of it.
#[derive(Clone, Debug)]
pub(crate) struct Forecast {
    pub(crate) arrangement: Arrangement,
    pub(crate) score: Score,
}

/// Scores every arrangement on the same repetitions.
pub(crate) fn forecast(
    candidates: Vec<Arrangement>,
    engine: &EngineInfo,
    costs: CostModel,
    repetitions: &[Repetition],
    wanted: &ObjectiveSettings,
) -> Result<Vec<Forecast>, SimError> {
    let machine = VirtualSettings::like(engine, dualpool_sim::timing(&costs));
    let workloads: Vec<Vec<(Time, Request)>> = repetitions.iter().map(|repetition| requests(repetition, wanted)).collect();
    let mut forecasts = Vec::with_capacity(candidates.len());
    for arrangement in candidates {
        let mut served = Vec::new();
        for (seed, (requests, Repetition { counted, .. })) in workloads.iter().zip(repetitions).enumerate() {
            let records = dualpool_sim::serve(&arrangement, &machine, costs, requests, seed as u64)?;
            served.extend(records.into_iter().filter(|record| counted.contains(&record.index)));
        }
        forecasts.push(Forecast { arrangement, score: Score::of(&served) });
    }
    Ok(forecasts)
}

/// The places of those that are worth a trial, arm by arm: the first one that the arm accepts, which is known to be good on real engines and
/// guards against a forecast that is far off, and its best forecasts.
pub(super) fn shortlists(forecasts: &[Forecast], arms: &[Arm]) -> Vec<Vec<usize>> {
    let shortlist = |arm: &Arm| {
        let mut accepted: Vec<usize> = (0..forecasts.len()).filter(|&i| arm.takes(forecasts[i].arrangement.policy)).collect();
        // Equal forecasts keep their order.
        if let Some(others) = accepted.get_mut(1..) {
            others.sort_by(|&a, &b| forecasts[b].score.score.total_cmp(&forecasts[a].score.score));
        }
        accepted.truncate(TRIED);
        accepted
    };
    arms.iter().map(shortlist).collect()
}

fn requests(repetition: &Repetition, wanted: &ObjectiveSettings) -> Vec<(Time, Request)> {
    repetition.items.iter().map(|item| item.clone().asked(wanted.of(item.class))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::candidates::{self, tests as fleet};
    use super::*;
    use std::collections::BTreeSet;

    use dualpool_types::PolicyKind;
    use dualpool_workload::{Workload, WorkloadSettings};

    fn forecasts(itl_ms: f64) -> Vec<Forecast> {
        let costs = CostModel::default();
        let engine = fleet::engine(2048);
        let candidates = candidates::candidates(&fleet::pools(), &engine, 64, 200);
        let workload = Workload::new(&WorkloadSettings::default());
        let repetitions: Vec<_> = (0..2).map(|seed| Repetition::whole(workload.generate(1000, seed, Some(7.5)))).collect();
        forecast(
            candidates,
            &engine,
            costs,
            &repetitions,
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
        let families = shortlists(&forecasts, &arms);
        assert!(families.iter().all(|family| family.len() == TRIED), "as many for each arm: {families:?}");
        let short: BTreeSet<usize> = families.into_iter().flatten().collect();
        assert!(short.len() <= TRIED * arms.len(), "{short:?}");
        assert!(short.contains(&0), "the known shared point");
        let best = (0..forecasts.len()).max_by(|&a, &b| forecasts[a].score.score.total_cmp(&forecasts[b].score.score)).unwrap();
        assert!(short.iter().any(|&i| forecasts[i].score.score >= forecasts[best].score.score));
        assert!(short.iter().any(|&i| forecasts[i].arrangement.policy == PolicyKind::DualPool));
    }
}
