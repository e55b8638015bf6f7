//! A calibration of engines on a terminal.

use super::result::{EngineTiming, HeldOut};
use crate::columns::rendered;

/// Narrower than this no table is readable.
const COLUMNS_MIN: u16 = 60;

/// The calibration as text of at most `columns` columns.
pub(super) fn table(timing: &EngineTiming, columns: u16) -> String {
    let columns = columns.max(COLUMNS_MIN);
    let environment = &timing.environment;
    let of = &timing.engine.timing;
    let costs = [
        ("any step", of.step_us, "us"),
        ("a step that decodes", of.decode_step_us, "us more"),
        ("a decode", of.decode_us, "us"),
        ("1,000 tokens that decodes read", of.context_us * 1e3, "us"),
        ("a prompt token", of.prefill_us, "us"),
        ("1,000 tokens that a prompt token reads", of.attention_us * 1e3, "us"),
        ("the way to the engine and back", of.round_trip_us, "us"),
        ("a copy of KV", of.copy_us, "us"),
        ("1,000 tokens of KV", of.copy_us_per_token * 1e3, "us"),
    ];
    let cost = |(what, us, unit): (&str, f64, &str)| vec![what.into(), format!("{us:.1}"), unit.into()];
    let share = |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.1}", share * 100.0));
    let workload =
        |held: &HeldOut| vec![held.workload.clone(), held.steps.to_string(), share(held.error_median), share(held.error_p90)];
    format!(
        "{} {} - {}, {} on {}: {} steps\n\n{}\nsteps that the fit has not seen\n\n{}",
        timing.target,
        timing.id,
        environment.model,
        environment.backend,
        environment.cpu,
        timing.steps,
        rendered(&["costs", "", ""], costs.into_iter().map(cost).collect(), columns),
        rendered(&["workload", "steps", "off by p50 %", "p90 %"], timing.held_out.iter().map(workload).collect(), columns),
    )
}
