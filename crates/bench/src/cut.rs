//! Leaves out of a measurement what there is no time for, and says what.

use dualpool_types::Arrangement;

use super::arms;
use super::budget::fit;
use super::drive::ArmRunner;

/// Cuts the arms, and returns how many of a repetition's requests are left. `whole`: of so many requests those that its workload can be cut to,
/// which come in rounds or conversations. `run_s`: how many seconds one arm takes for so many.
pub(super) fn cut(
    runner: &ArmRunner<'_>,
    measured: &mut Vec<Arrangement>,
    requests: u32,
    whole: impl Fn(u32) -> u32,
    run_s: impl Fn(u32) -> f64,
) -> u32 {
    let Some(budget) = runner.budget() else { return requests };
    let idle_s = runner.findings().idle().as_secs_f64();
    let fitting = fit(budget.left(), measured.len(), requests, |requests| run_s(whole(requests)) + idle_s);
    let left_out = arms::least_important(measured, fitting.arms);
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        runner.note(format!("There is no time for all arms, so these were left out: {names}. More time: --budget."));
    }
    let left = whole(fitting.requests);
    if left < requests {
        runner.note(format!("There is no time for {requests} requests in a repetition, so it has {left}. More time: --budget."));
    }
    left
}
