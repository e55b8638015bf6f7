//! Which of many arrangements are worth a trial on the engines: each is simulated on engines that cost what the router has learned of
//! these, with the very policy code that serves. A trial takes seconds of two engines and sees a few dozen requests; a forecast takes
//! milliseconds and sees hundreds, but knows the engines by five numbers only. So the forecast picks the field, and trials the winner.

use super::Score;
use crate::config::ObjectiveSettings;
use crate::core::{Arrangement, Request, RequestId, Time};
use crate::engine::EngineInfo;
use crate::engine::virtual_engine::VirtualSettings;
use crate::harness::drive::objectives;
use crate::router::CostModel;
use crate::sim::{self, SimError};
use crate::workload::WorkItem;

/// An arrangement and what the simulation says of it.
#[derive(Clone, Debug)]
pub struct Forecast {
    pub arrangement: Arrangement,
    pub score: Score,
}

/// Scores every arrangement on the same workloads, best first; equal scores keep their order.
pub fn forecast(
    candidates: Vec<Arrangement>,
    engine: &EngineInfo,
    costs: CostModel,
    workloads: &[Vec<WorkItem>],
    wanted: &ObjectiveSettings,
) -> Result<Vec<Forecast>, SimError> {
    let machine = VirtualSettings {
        timing: sim::timing(&costs),
        block_size: engine.block_size,
        kv_blocks: engine.kv_blocks,
        max_model_len: engine.max_model_len,
        max_num_batched_tokens: engine.max_num_batched_tokens,
        max_num_seqs: engine.max_num_seqs,
        vocab_size: engine.vocab_size,
        ..VirtualSettings::default()
    };
    let workloads: Vec<Vec<(Time, Request)>> = workloads.iter().map(|items| requests(items, wanted)).collect();
    let mut forecasts = Vec::with_capacity(candidates.len());
    for arrangement in candidates {
        let mut served = Vec::new();
        for (seed, requests) in workloads.iter().enumerate() {
            served.extend(sim::serve(&arrangement, &machine, costs, requests, seed as u64)?);
        }
        forecasts.push(Forecast { arrangement, score: Score::of(&served) });
    }
    forecasts.sort_by(|a, b| b.score.score.total_cmp(&a.score.score));
    Ok(forecasts)
}

fn requests(items: &[WorkItem], wanted: &ObjectiveSettings) -> Vec<(Time, Request)> {
    let request = |item: &WorkItem| Request {
        id: RequestId(u64::from(item.index)),
        prompt: item.prompt.clone(),
        max_tokens: item.max_tokens,
        ignore_eos: true,
        class: item.class,
        objectives: objectives(wanted, item.class),
    };
    items.iter().map(|item| (Time(item.at.0), request(item))).collect()
}
