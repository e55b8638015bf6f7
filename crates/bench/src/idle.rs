//! What these engines do when they have next to nothing to do: objectives that were not given are so many times that, so that a run asks the
//! same of a slow machine as of a fast one.

use std::sync::Arc;

use rand::Rng as _;

use dualpool_report::measure::{itls_ms, quantile, sorted, ttft_ms};
use dualpool_report::metric::Unit;
use dualpool_router::CostModel;
use dualpool_types::artifact::{RunIdle, RunInfo, SummaryObjectives};
use dualpool_types::records::RequestRecord;
use dualpool_types::{Arrangement, Class, Micros, TokenId, seeded};
use dualpool_workload::{ModelLimits, ObjectiveSettings, WorkItem, WorkloadSettings};

use super::drive::{ArmRunner, DriveError, Pace, Work};
use super::phases::Phases;
use crate::Settings;

/// Requests of each class that each engine serves alone.
const ALONE: usize = 2;
/// Output tokens of these.
const ALONE_TOKENS: u32 = 8;

/// Requests that decode together on each engine, and their output tokens.
const TOGETHER: usize = 4;
const TOGETHER_TOKENS: u32 = 16;

/// Decides on the objectives of the run, by a measurement where one of them was not given.
pub(super) async fn settle_objectives(
    runner: &ArmRunner<'_>,
    in_turn: &Arrangement,
    settings: &Settings,
    model: ModelLimits,
    run: &mut RunInfo,
    phases: &mut Phases<'_>,
) -> Result<(), DriveError> {
    let mut settled = settings.objectives.clone();
    if settled.is_open() {
        phases.begin("objectives", 2);
        let idle = measure(runner, in_turn, &settings.workload, model).await?;
        settled = objectives(&settings.objectives, &idle);
        let ms = Unit::Ms.write();
        runner.note(format!(
            "Objectives, from idle engines: TTFT {} ms short and {} ms long, ITL {} ms ({} and {} times {}, {} and {} ms).",
            ms(settled.ttft_ms_of(Class::Short)),
            ms(settled.ttft_ms_of(Class::Long)),
            ms(settled.itl_ms),
            settled.ttft_slack,
            settled.itl_slack,
            ms(idle.ttft_short_ms),
            ms(idle.ttft_long_ms),
            ms(idle.itl_alone_ms.max(idle.itl_together_ms)),
        ));
        run.idle = Some(idle);
    }
    run.objectives = Some(SummaryObjectives {
        ttft_short_ms: settled.ttft_ms_of(Class::Short),
        ttft_long_ms: settled.ttft_ms_of(Class::Long),
        itl_ms: settled.itl_ms,
    });
    runner.set_objectives(settled);
    Ok(())
}

/// What is shorter is about timers and not about engines.
const TIMER_MS: f64 = 5.0;

/// Measures it, with all engines dealt to in turn by this arrangement.
async fn measure(
    runner: &ArmRunner<'_>,
    in_turn: &Arrangement,
    workload: &WorkloadSettings,
    model: ModelLimits,
) -> Result<RunIdle, DriveError> {
    let engines = in_turn.roles.len();
    let alone: Vec<WorkItem> = [(Class::Short, workload.short_prompt_tokens), (Class::Long, workload.long_prompt_tokens)]
        .into_iter()
        .flat_map(|(class, tokens)| (0..ALONE * engines).map(move |_| (class, tokens, ALONE_TOKENS)))
        .zip(0..)
        .map(|(request, index)| item(index, request, model, workload.seed))
        .collect();
    let together: Vec<WorkItem> = (0..(TOGETHER * engines) as u32)
        .map(|index| item(index, (Class::Short, workload.short_prompt_tokens, TOGETHER_TOKENS), model, workload.seed + 1))
        .collect();
    let alone = runner.run("one request at a time", in_turn, 0, Work::all(&alone, Pace::OneByOne)).await?.requests;
    let together = runner.run("a few requests together", in_turn, 0, Work::open_loop(&together)).await?.requests;
    let ttft = |class: Class| middle(alone.iter().filter(|r| r.class == class).filter_map(ttft_ms));
    let itl = |requests: &[RequestRecord]| middle(requests.iter().flat_map(itls_ms));
    Ok(RunIdle {
        ttft_short_ms: ttft(Class::Short).ok_or(DriveError::NoSaturation)?,
        ttft_long_ms: ttft(Class::Long).ok_or(DriveError::NoSaturation)?,
        itl_alone_ms: itl(&alone).ok_or(DriveError::NoSaturation)?,
        itl_together_ms: itl(&together).ok_or(DriveError::NoSaturation)?,
    })
}

/// The objectives that were given, and in place of those that were not, what idle engines do times the slack.
fn objectives(given: &ObjectiveSettings, idle: &RunIdle) -> ObjectiveSettings {
    let or = |given: f64, derived: f64| if given > 0.0 { given } else { rounded(derived.max(TIMER_MS)) };
    ObjectiveSettings {
        ttft_short_ms: or(given.ttft_short_ms, idle.ttft_short_ms * given.ttft_slack),
        ttft_long_ms: or(given.ttft_long_ms, idle.ttft_long_ms * given.ttft_slack),
        itl_ms: or(given.itl_ms, idle.itl_alone_ms.max(idle.itl_together_ms) * given.itl_slack),
        ..given.clone()
    }
}

/// What engines with these idle times cost; what the times do not tell is as it was learned.
pub(super) fn costs(idle: &RunIdle, workload: &WorkloadSettings, learned: CostModel) -> CostModel {
    let (short, long) = (f64::from(workload.short_prompt_tokens), f64::from(workload.long_prompt_tokens));
    let prefill_us = (idle.ttft_long_ms - idle.ttft_short_ms) / (long - short) * 1e3;
    let decode_us = ((idle.itl_together_ms - idle.itl_alone_ms) / (TOGETHER as f64 - 1.0) * 1e3).max(0.0);
    let step_us = (idle.itl_alone_ms * 1e3 - decode_us).max(0.0);
    // Prompts of one length do not tell what a token costs, nor do times as short as a timer's.
    let told = prefill_us.is_finite() && prefill_us > 0.0 && step_us > 0.0;
    if told { CostModel { prefill_us, step_us, decode_us, ..learned } } else { learned }
}

fn item(index: u32, (class, tokens, max_tokens): (Class, u32, u32), model: ModelLimits, seed: u64) -> WorkItem {
    let tokens = tokens.min(model.max_model_len.saturating_sub(max_tokens)).max(1);
    let mut words = seeded(seed.wrapping_add(u64::from(index)), "idle");
    let prompt: Arc<[TokenId]> = (0..tokens).map(|_| words.random_range(model.vocab_size / 2..model.vocab_size)).collect();
    WorkItem::new(index, Micros::ZERO, prompt, max_tokens, class)
}

fn middle(values: impl Iterator<Item = f64>) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// To two digits: an objective is not known better than that.
fn rounded(ms: f64) -> f64 {
    let unit = 10_f64.powf(ms.log10().floor() - 1.0);
    (ms / unit).round() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_times_tell_what_a_step_costs() {
        let truth = CostModel { prefill_us: 170.0, step_us: 3_600.0, decode_us: 210.0, ..CostModel::default() };
        let idle = |long_ms: f64| RunIdle {
            ttft_short_ms: 64.0 * 0.17,
            ttft_long_ms: long_ms,
            itl_alone_ms: 3.6 + 0.21,
            itl_together_ms: 3.6 + 4.0 * 0.21,
        };
        let workload = WorkloadSettings { short_prompt_tokens: 64, long_prompt_tokens: 1024, ..WorkloadSettings::default() };
        let told = costs(&idle(1024.0 * 0.17), &workload, CostModel::default());
        let pairs = [(told.prefill_us, truth.prefill_us), (told.step_us, truth.step_us), (told.decode_us, truth.decode_us)];
        assert!(pairs.into_iter().all(|(told, truth)| (told / truth - 1.0).abs() < 1e-9), "{told:?}");
        assert_eq!(told.handoff_us, truth.handoff_us);
        assert_eq!(costs(&idle(0.0), &workload, truth), truth, "a long prompt does not take less than a short one");
    }

    #[test]
    fn what_is_given_stands_and_the_rest_is_of_this_machine() {
        let idle = RunIdle { ttft_short_ms: 21.3, ttft_long_ms: 407.0, itl_alone_ms: 5.0, itl_together_ms: 8.04 };
        let given = ObjectiveSettings { ttft_long_ms: 1234.5, ttft_slack: 5.0, itl_slack: 10.0, ..ObjectiveSettings::default() };
        let objectives = objectives(&given, &idle);
        assert_eq!((objectives.ttft_short_ms, objectives.ttft_long_ms), (110.0, 1234.5));
        assert!((objectives.itl_ms - 80.0).abs() < 1e-9, "{}", objectives.itl_ms);
        assert!((rounded(0.01234) - 0.012).abs() < 1e-12);
        let instant = RunIdle { ttft_short_ms: 0.0, ttft_long_ms: 0.0, itl_alone_ms: 0.0, itl_together_ms: 0.0 };
        assert_eq!(super::objectives(&ObjectiveSettings::default(), &instant).itl_ms, TIMER_MS);
    }
}
