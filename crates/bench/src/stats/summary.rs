//! Puts the summary together from what a run left.

use std::path::Path;

use thiserror::Error;

use dualpool_report::{LoadError, complete_repetitions, figures, load, routing};
use dualpool_types::arm::controlled;
use dualpool_types::artifact::{ArmSummary, Comparison, RUN_SCHEMA_VERSION, RunInfo, Summary, SummaryObjectives};
use dualpool_types::records::{EngineSample, RequestRecord};
use dualpool_types::{Arrangement, Class};
use dualpool_workload::{arrivals_name, mix_name};

use super::compare::{Arm, all_decided, comparisons};
use super::expected::held;
use super::overload::{Course, is_overloaded};
use crate::identical::identical;
use crate::{Settings, arms};

/// The arrivals of an exact run, whatever the settings say.
const ONE_BY_ONE: &str = "one_by_one";

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
    let settings = Settings::of_run(&run.settings).map_err(SummaryError::Settings)?;
    let complete = complete_repetitions(run, requests);
    let requests: Vec<&RequestRecord> = requests.iter().filter(|r| complete.contains(&r.repetition)).collect();
    let samples: Vec<&EngineSample> = samples.iter().filter(|s| complete.contains(&s.repetition)).collect();

    let arms = run
        .arms
        .iter()
        .map(|arm| {
            let requests: Vec<&RequestRecord> = requests.iter().copied().filter(|r| r.arm == arm.name).collect();
            let samples: Vec<&EngineSample> = samples.iter().copied().filter(|s| s.arm == arm.name).collect();
            let routing = run.workload.as_ref().map(|_| routing(&requests, &samples, &run.environment));
            let control = controlled(&arm.name).is_some();
            // Without a lead-in a repetition is a course of its own, which begins with empty queues.
            let led_in = run.repetition.filter(|repetition| repetition.lead_in_s > 0.0);
            let overloaded = led_in.and_then(|_| is_overloaded(&courses(&complete, &requests, &samples)));
            ArmSummary { routing, overloaded, ..figures(&arm.name, control, &requests, &samples, &run.environment) }
        })
        .collect();
    let reference = arms::reference(&run.arms).map_or("", |arm| arm.name.as_str());
    // Requests that are alone on the engines say nothing of what an arm is for.
    let comparisons = if settings.run.exact { Vec::new() } else { compared(run, &requests, &complete) };
    let (served, arrivals) = match &run.workload {
        Some(workload) => (workload.name.as_str(), workload.arrivals.as_str()),
        None => (mix_name(settings.workload.mix), arrivals_name(settings.workload.arrivals)),
    };
    Ok(Summary {
        schema_version: RUN_SCHEMA_VERSION,
        target: run.target.clone(),
        environment: run.environment.clone(),
        mix: served.to_string(),
        arrivals: if settings.run.exact { ONE_BY_ONE } else { arrivals }.to_string(),
        rate_rps: run.rate_rps,
        repetitions: complete.len() as u32,
        objectives: run.objectives.unwrap_or(SummaryObjectives {
            ttft_short_ms: settings.objectives.of(Class::Short).ttft_us_max.as_ms(),
            ttft_long_ms: settings.objectives.of(Class::Long).ttft_us_max.as_ms(),
            itl_ms: settings.objectives.of(Class::Short).itl_us_max.as_ms(),
        }),
        arms,
        expectations: run.expected.as_ref().map(|expected| held(expected, &comparisons)),
        comparisons,
        identical_requests: identical(&requests, reference),
        exact: settings.run.exact,
        held_blocks_after: run.held_blocks_after,
        drained: run.drained.clone(),
    })
}

/// One arm's repetitions.
fn courses<'a>(complete: &[u32], requests: &[&'a RequestRecord], samples: &[&'a EngineSample]) -> Vec<Course<'a>> {
    let of = |n: u32| Course {
        requests: requests.iter().copied().filter(|request| request.repetition == n).collect(),
        samples: samples.iter().copied().filter(|sample| sample.repetition == n).collect(),
    };
    complete.iter().map(|&n| of(n)).collect()
}

/// The summary of the run in a folder, from its raw records.
pub fn rebuild(dir: &Path) -> Result<Summary, SummaryError> {
    let artifacts = load(dir)?;
    summarise(&artifacts.run, &artifacts.requests, &artifacts.samples)
}

/// Whether what a run was made to find out is decided by these records, with a look after the last complete repetition.
pub(crate) fn decided(run: &RunInfo, requests: &[RequestRecord]) -> bool {
    let complete = complete_repetitions(run, requests);
    let requests: Vec<&RequestRecord> = requests.iter().filter(|r| complete.contains(&r.repetition)).collect();
    all_decided(&compared(run, &requests, &complete))
}

/// The arms with their requests, by repetition, of those that count.
pub(super) fn arms_of<'a>(run: &'a RunInfo, requests: &'a [RequestRecord]) -> Vec<Arm<'a>> {
    let complete = complete_repetitions(run, requests);
    let requests: Vec<&RequestRecord> = requests.iter().collect();
    by_repetition(run, &requests, &complete)
}

fn by_repetition<'a>(run: &'a RunInfo, requests: &[&'a RequestRecord], complete: &[u32]) -> Vec<Arm<'a>> {
    let of = |arm: &str, n: u32| requests.iter().copied().filter(|r| r.repetition == n && r.arm == arm).collect();
    let arm = |arm: &'a Arrangement| Arm { name: &arm.name, repetitions: complete.iter().map(|&n| of(&arm.name, n)).collect() };
    run.arms.iter().map(arm).collect()
}

fn compared(run: &RunInfo, requests: &[&RequestRecord], complete: &[u32]) -> Vec<Comparison> {
    let arms = by_repetition(run, requests, complete);
    let saturated = match (run.rate_rps, run.saturation_rps) {
        (Some(rate), Some(saturation)) => rate >= saturation,
        (Some(_), None) => false,
        (None, _) => run.workload.is_none(),
    };
    comparisons(&arms, &run.looks, saturated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::synthetic;
    use dualpool_types::artifact::{Environment, EnvironmentEngine, Verdict};
    use dualpool_types::{Arrangement, PolicyKind};

    fn run(arms: &[&str]) -> RunInfo {
        let engine = |id| EnvironmentEngine {
            id: dualpool_types::EngineId(id),
            device: format!("cores {id}"),
            block_size: 128,
            kv_blocks: 100,
        };
        let arrangement = |name: &&str| Arrangement {
            name: name.to_string(),
            policy: PolicyKind::LeastLoad,
            roles: vec![],
            tunings: vec![],
            long_prompt_tokens_min: 256,
        };
        let settings = Settings::default();
        let environment = Environment {
            dualpool: "0".into(),
            backend: "virtual".into(),
            model: "tiny".into(),
            dtype: "auto".into(),
            os: "unknown".into(),
            cpu: "unknown".into(),
            cores: Some(2),
            memory_bytes: Some(1),
            gpus: vec![],
            engines: vec![engine(0), engine(1)],
        };
        RunInfo {
            settings: serde_json::to_value(settings).unwrap(),
            arms: arms.iter().map(arrangement).collect(),
            seeds: vec![1, 2, 3],
            rate_rps: Some(8.0),
            ..RunInfo::begun("dual_pool", "test", "2026-01-05T10:30:00Z", environment)
        }
    }

    fn records(arms: &[&str]) -> Vec<RequestRecord> {
        arms.iter().zip(0..).flat_map(|(arm, i)| synthetic::noisy(arm, 3, 40, 1.0 + f64::from(i) / 4.0, 9)).collect()
    }

    fn value(arm: &ArmSummary, metric: &str) -> Option<f64> {
        metric.split('.').try_fold(&serde_json::to_value(arm).unwrap(), |value, key| value.get(key)).and_then(|v| v.as_f64())
    }

    const ARMS: [&str; 3] = ["shared_tuned", "dual_pool", "shared_tuned_control"];

    /// The comparison's ratio is the mean of the repetitions' own, so a reader can check it with a pocket calculator.
    #[test]
    fn ratios_are_those_of_the_repetitions() {
        let (run, records) = (run(&ARMS), records(&ARMS));
        let summary = summarise(&run, &records, &[]).unwrap();
        let of_one = |arm: &str, n: u32| {
            let own: Vec<&RequestRecord> = records.iter().filter(|r| r.arm == arm && r.repetition == n).collect();
            figures(arm, false, &own, &[], &run.environment)
        };
        assert_eq!(summary.comparisons.len(), 2 * 9, "two pairs, without waves and below saturation");
        for c in summary.comparisons.iter().filter(|c| c.difference.is_none()) {
            let ratio =
                |n| value(&of_one(&c.candidate, n), &c.metric).unwrap() / value(&of_one(&c.baseline, n), &c.metric).unwrap();
            let expected = (0..3).map(|n| ratio(n).ln()).sum::<f64>() / 3.0;
            assert!((c.ratio.unwrap() - expected.exp()).abs() < 1e-9, "{c:?}: the repetitions give {}", expected.exp());
            assert!(c.ci_low <= c.ci_high);
        }
    }

    #[test]
    fn a_repetition_that_not_all_arms_finished_does_not_count() {
        let whole = records(&ARMS);
        let cut: Vec<RequestRecord> = whole.iter().filter(|r| r.repetition < 2 || r.arm == "shared_tuned").cloned().collect();
        let summary = summarise(&run(&ARMS), &cut, &[]).unwrap();
        assert_eq!(summary.repetitions, 2);
        assert!(summary.arms.iter().all(|a| a.requests == 80));
        assert_eq!(summary.identical_requests["dual_pool"].compared, 80);
    }

    #[test]
    fn a_run_that_finished_nothing_says_not_measured() {
        let summary = summarise(&run(&ARMS), &[], &[]).unwrap();
        assert_eq!(summary.repetitions, 0);
        assert!(summary.arms.iter().all(|a| a.completion_ms.is_none() && a.goodput_share.is_none()));
        assert!(summary.comparisons.iter().all(|c| c.verdict == Verdict::NotMeasured));
    }
}
