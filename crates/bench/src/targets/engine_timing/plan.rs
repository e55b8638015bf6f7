//! What engines are given to do while their steps are recorded: every size of prompt alone, every size of batch at every depth of
//! context, and both mixed, so that no two features of a step always come together.

use dualpool_router::CostModel;
use dualpool_types::{Micros, Tuning};
use dualpool_workload::{ArrivalProcess, Lengths, Mixed, ModelLimits, ParameterError, WorkItem};

use crate::drive::Pace;

/// Prompts that are computed alone, in tokens, and how often each.
const ALONE: [u32; 8] = [16, 32, 64, 128, 256, 512, 1024, 2048];
const ALONE_TIMES: u32 = 3;
const ALONE_OUTPUTS: u32 = 8;

/// Requests that decode together on one engine, by the length of their prompts.
const TOGETHER: [(u32, &[u32]); 3] = [(48, &[1, 2, 4, 8, 16, 32, 48]), (512, &[1, 4, 16]), (2048, &[1, 4])];
const TOGETHER_OUTPUTS: u32 = 24;

/// Requests of the mixed stage, and the load they are to make: enough for batches of all sizes, and no queue without end.
const MIXED_REQUESTS: u32 = 240;
const MIXED_LOAD: f64 = 0.6;
/// Requests that are taken to decode beside one another when that load is worked out.
const MIXED_BATCH: f64 = 6.0;

/// The steps of half the mixed stage are as large as engines like, those of the other half as small as arms that are tuned for ITL have
/// them.
const SMALL_STEPS: Tuning = Tuning { max_num_batched_tokens: Some(224), long_prefill_token_threshold: Some(64) };

/// One run over all engines.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub name: String,
    pub tuning: Tuning,
    pub pace: Pace,
    pub items: Vec<WorkItem>,
}

/// Stages that need no knowledge of the engines, for so many of them. `share` scales how often things are repeated.
pub(super) fn controlled(
    engines: u32,
    model: ModelLimits,
    seats: u32,
    seed: u64,
    share: f64,
) -> Result<Vec<Stage>, ParameterError> {
    let times = |n: u32| ((f64::from(n) * share).ceil() as u32).max(1);
    let fits = |prompt: u32, outputs: u32| prompt + outputs <= model.max_model_len;
    let mut stages = Vec::new();
    let mut alone = Vec::new();
    for (i, &prompt) in ALONE.iter().enumerate().filter(|(_, prompt)| fits(**prompt, ALONE_OUTPUTS)) {
        let requests = times(ALONE_TIMES) * engines;
        alone.extend(alike(requests, prompt, ALONE_OUTPUTS).items(model, seed + i as u64)?);
    }
    for (index, item) in alone.iter_mut().enumerate() {
        item.index = index as u32;
    }
    stages.push(Stage { name: "prompts alone".into(), tuning: Tuning::default(), pace: Pace::OneByOne, items: alone });
    for (prompt, batches) in TOGETHER {
        for &batch in batches.iter().filter(|batch| **batch <= seats && fits(prompt, TOGETHER_OUTPUTS)) {
            let mut items: Vec<WorkItem> =
                alike(batch * engines, prompt, TOGETHER_OUTPUTS).items(model, seed ^ u64::from(prompt * batch))?.collect();
            items.iter_mut().for_each(|item| item.at = Micros::ZERO);
            let name = format!("{batch} at a time, {prompt} tokens");
            stages.push(Stage { name, tuning: Tuning::default(), pace: Pace::OpenLoop, items });
        }
    }
    Ok(stages)
}

/// The mixed stage, at a rate that these costs make bearable.
pub(super) fn mixed(
    engines: u32,
    model: ModelLimits,
    costs: &CostModel,
    seed: u64,
    share: f64,
) -> Result<Vec<Stage>, ParameterError> {
    let most = |n: u32| n.min(model.max_model_len / 2).max(1);
    let lengths = |median: u32, min: u32, max: u32| Lengths { median: most(median), spread: 1.0, min: most(min), max: most(max) };
    let mut mixed = Mixed {
        requests: ((f64::from(MIXED_REQUESTS / 2) * share) as u32).max(8),
        rate: 1.0,
        arrivals: ArrivalProcess::Poisson,
        long_share: 0.15,
        chat_prompt: lengths(96, 16, 480),
        chat_output: lengths(24, 2, 96),
        long_prompt: lengths(1024, 256, 2048),
        long_output: lengths(24, 2, 96),
    };
    let mut stages = Vec::new();
    for (i, tuning) in [Tuning::default(), SMALL_STEPS].into_iter().enumerate() {
        let seed = seed + i as u64;
        mixed.rate = 1.0;
        let (mut work_us, mut requests) = (0.0, 0.0);
        for item in mixed.items(model, seed)? {
            let (prompt, outputs) = (item.prompt.len() as f64, f64::from(item.max_tokens));
            work_us += prompt * costs.prefill_us + outputs * (costs.decode_us + costs.step_us / MIXED_BATCH);
            requests += 1.0;
        }
        mixed.rate = f64::from(engines) * MIXED_LOAD * requests / (work_us.max(1.0) / 1e6);
        let name = if i == 0 { "mixed" } else { "mixed, small steps" };
        stages.push(Stage { name: name.into(), tuning, pace: Pace::OpenLoop, items: mixed.items(model, seed)?.collect() });
    }
    Ok(stages)
}

fn alike(requests: u32, prompt: u32, outputs: u32) -> Mixed {
    let exactly = |median: u32| Lengths { median, spread: 0.0, min: median, max: median };
    let (prompt, output) = (exactly(prompt), exactly(outputs));
    Mixed {
        requests,
        rate: 1.0,
        arrivals: ArrivalProcess::Poisson,
        long_share: 0.0,
        chat_prompt: prompt,
        chat_output: output,
        long_prompt: prompt,
        long_output: output,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: ModelLimits = ModelLimits { vocab_size: 49_152, max_model_len: 1024 };

    #[test]
    fn every_stage_fits_the_model_and_the_engines() {
        let stages = controlled(2, MODEL, 16, 1, 1.0).unwrap();
        let mixed = mixed(2, MODEL, &CostModel::default(), 1, 1.0).unwrap();
        for stage in stages.iter().chain(&mixed) {
            assert!(!stage.items.is_empty(), "{}", stage.name);
            assert!(stage.items.iter().all(|item| item.prompt.len() as u32 + item.max_tokens <= 1024), "{}", stage.name);
            assert!(stage.items.iter().enumerate().all(|(i, item)| item.index == i as u32), "{}", stage.name);
        }
        let largest = stages.iter().filter(|stage| stage.pace == Pace::OpenLoop).map(|stage| stage.items.len()).max();
        assert_eq!(largest, Some(32), "16 seats on each of 2 engines");
    }

    #[test]
    fn the_mixed_stage_loads_the_engines_by_what_they_cost() {
        let rate = |costs: &CostModel| {
            let stage = &mixed(2, MODEL, costs, 1, 1.0).unwrap()[0];
            stage.items.len() as f64 / stage.items.last().unwrap().at.as_secs()
        };
        let slow = CostModel::default();
        let fast = CostModel {
            prefill_us: slow.prefill_us / 10.0,
            decode_us: slow.decode_us / 10.0,
            step_us: slow.step_us / 10.0,
            ..slow
        };
        let times = rate(&fast) / rate(&slow);
        assert!((times - 10.0).abs() < 0.01, "{times}");
    }
}
