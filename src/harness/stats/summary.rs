//! Puts the summary together from what a run left.

use std::collections::BTreeMap;
use std::path::Path;

use thiserror::Error;

use super::bootstrap::Population;
use super::compare::{Arm, comparisons};
use super::observed::Observed;
use crate::config::Settings;
use crate::core::Class;
use crate::harness::arms::CONTROL_SUFFIX;
use crate::harness::identical::identical;
use crate::report::{Comparison, LoadError, RunInfo, Summary, SummaryObjectives, figures, load};
use crate::telemetry::{EngineSample, RequestRecord};
use crate::workload::{arrivals_name, mix_name};

#[derive(Debug, Error)]
pub enum SummaryError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the settings in run.json are not those of this version: {0}; use the version that wrote them")]
    Settings(serde_json::Error),
}

/// The summary of a run. Only repetitions that every arm finished count: a repetition that was cut short would weigh on some arms
/// and not on others.
pub fn summarise(run: &RunInfo, requests: &[RequestRecord], samples: &[EngineSample]) -> Result<Summary, SummaryError> {
    let settings: Settings = serde_json::from_value(run.settings.clone()).map_err(SummaryError::Settings)?;
    let complete = complete_repetitions(run, requests);
    let requests: Vec<&RequestRecord> = requests.iter().filter(|r| complete.contains(&r.repetition)).collect();
    let samples: Vec<&EngineSample> = samples.iter().filter(|s| complete.contains(&s.repetition)).collect();

    let arms = run
        .arms
        .iter()
        .map(|arm| {
            let requests: Vec<&RequestRecord> = requests.iter().copied().filter(|r| r.arm == arm.name).collect();
            let samples: Vec<&EngineSample> = samples.iter().copied().filter(|s| s.arm == arm.name).collect();
            figures(&arm.name, arm.name.ends_with(CONTROL_SUFFIX), &requests, &samples, &run.environment)
        })
        .collect();
    let reference = run.arms.first().map_or("", |arm| arm.name.as_str());
    Ok(Summary {
        target: run.target.clone(),
        environment: run.environment.clone(),
        mix: mix_name(settings.workload.mix).to_string(),
        arrivals: arrivals_name(settings.workload.arrivals).to_string(),
        rate_rps: run.rate_rps,
        repetitions: complete.len() as u32,
        objectives: SummaryObjectives {
            ttft_short_ms: settings.objectives.ttft_short_ms,
            ttft_long_ms: settings.objectives.ttft_long_ms,
            itl_ms: settings.objectives.itl_ms,
        },
        arms,
        comparisons: compared(run, &requests, &complete, &settings),
        identical_requests: identical(&requests, reference),
        exact: settings.run.exact,
        held_blocks_after: run.held_blocks_after,
    })
}

/// The summary of the run in a folder, from its raw records.
pub fn rebuild(dir: &Path) -> Result<Summary, SummaryError> {
    let artifacts = load(dir)?;
    summarise(&artifacts.run, &artifacts.requests, &artifacts.samples)
}

/// The repetitions in which every arm has records. An arm's records come all at once, when its run is over.
fn complete_repetitions(run: &RunInfo, requests: &[RequestRecord]) -> Vec<u32> {
    let mut arms: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for r in requests {
        let seen = arms.entry(r.repetition).or_default();
        if !seen.contains(&r.arm.as_str()) {
            seen.push(&r.arm);
        }
    }
    let complete = |seen: &[&str]| run.arms.iter().all(|arm| seen.contains(&arm.name.as_str()));
    arms.into_iter().filter(|(_, seen)| complete(seen)).map(|(repetition, _)| repetition).collect()
}

fn compared(run: &RunInfo, requests: &[&RequestRecord], complete: &[u32], settings: &Settings) -> Vec<Comparison> {
    let of = |arm: &str| -> Vec<Vec<&RequestRecord>> {
        let in_repetition = |n: u32| requests.iter().copied().filter(move |r| r.repetition == n);
        complete.iter().map(|&n| in_repetition(n).filter(|r| r.arm == arm).collect()).collect()
    };
    // All arms of a repetition have the same requests, so the first arm's stand for all.
    let Some(first) = run.arms.first() else { return Vec::new() };
    let classes: Vec<Vec<Class>> = of(&first.name).iter().map(|requests| requests.iter().map(|r| r.class).collect()).collect();
    let mut slots = 0;
    let mut first_slot = Vec::new();
    for repetition in &classes {
        first_slot.push(slots as u32);
        slots += repetition.len();
    }
    let arms: Vec<Arm> = run
        .arms
        .iter()
        .map(|arm| Arm { name: arm.name.clone(), observed: Observed::new(&of(&arm.name), &first_slot, slots) })
        .collect();
    comparisons(&arms, &Population::new(&classes), complete.len(), settings.run.bootstrap_resamples, settings.workload.seed)
}
