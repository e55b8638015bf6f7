//! A simulation on a terminal: one column per arm, for an arm has more figures than a line holds.

use comfy_table::Table;

use dualpool_types::Role;

use super::{Latency, Simulated, SimulatedArm};
use crate::grid::{aligned, bare};
use crate::words::{NOT_MEASURED, count, figure, ms, or_not_measured, percent};

/// The report as text.
pub fn table(simulated: &Simulated) -> String {
    let objectives = simulated.objectives;
    let mut out = format!(
        "SIMULATED: figures of a model, nothing was measured\n{}: {}\n{}; objectives: TTFT {} ms, longest ITL {} ms; seed {}\n",
        simulated.scenario,
        simulated.about,
        simulated.workload,
        ms(objectives.ttft_ms),
        ms(objectives.itl_ms),
        simulated.seed
    );
    if let Some(trace) = &simulated.trace {
        out += &format!("{}: {}, {}", trace.file, trace.format, count(trace.requests.into(), "request"));
        if trace.clipped_requests > 0 {
            out += &format!(", {} clipped to the model's context", trace.clipped_requests);
        }
        out += &format!(", {}\n", count(trace.bad_rows, "bad row"));
        trace.named.iter().for_each(|row| out += &format!("  {row}\n"));
    }
    let mut table = bare();
    table.set_header(std::iter::once("").chain(simulated.arms.iter().map(|arm| arm.name.as_str())));
    let arms = &simulated.arms;
    for row in ROWS {
        row_of(&mut table, row.name, arms, row.read);
    }
    for role in Role::ALL.into_iter().filter(|role| arms.iter().any(|arm| arm.ttft_ms_by_pool.contains_key(role))) {
        let name = format!("TTFT from {} engines p50/p95 ms", role.name());
        row_of(&mut table, &name, arms, |arm| arm.ttft_ms_by_pool.get(&role).map(|latency| quantiles(latency, false)));
    }
    let names = |of: fn(&SimulatedArm) -> &std::collections::BTreeMap<String, u64>| {
        let mut names: Vec<&str> = arms.iter().flat_map(|arm| of(arm).keys().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    for name in names(|arm| &arm.rejected) {
        row_of(&mut table, &format!("rejected: {name}"), arms, |arm| Some(arm.rejected.get(name).unwrap_or(&0).to_string()));
    }
    for name in names(|arm| &arm.failed) {
        row_of(&mut table, &format!("failed: {name}"), arms, |arm| Some(arm.failed.get(name).unwrap_or(&0).to_string()));
    }
    for name in names(|arm| &arm.notes) {
        row_of(&mut table, &format!("noted: {name}"), arms, |arm| Some(arm.notes.get(name).unwrap_or(&0).to_string()));
    }
    for tier in tiers(arms) {
        row_of(&mut table, &format!("utilisation of {tier}, % per engine"), arms, |arm| Some(utilisation(arm, tier)));
    }
    out + &aligned(table)
}

struct Row {
    name: &'static str,
    read: fn(&SimulatedArm) -> Option<String>,
}

const ROWS: [Row; 12] = [
    Row { name: "requests", read: |arm| Some(arm.requests.to_string()) },
    Row { name: "share within objectives %", read: |arm| Some(or_not_measured(arm.goodput_share, percent)) },
    Row { name: "goodput, requests/s", read: |arm| arm.goodput_rps.map(figure) },
    Row { name: "TTFT p50/p95/p99 ms", read: |arm| Some(quantiles(&arm.ttft_ms, true)) },
    Row { name: "ITL p50/p95/p99 ms", read: |arm| Some(quantiles(&arm.itl_ms, true)) },
    Row { name: "end to end p50/p95/p99 ms", read: |arm| Some(quantiles(&arm.e2e_ms, true)) },
    Row { name: "output tok/s", read: |arm| arm.output_tokens_per_s.map(figure) },
    Row { name: "queue depth prefill/decode/shared", read: |arm| Some(depths(arm)) },
    Row { name: "KV moves", read: |arm| Some(moves(arm)) },
    Row { name: "prefix hits, % of prompt tokens", read: |arm| arm.prefix_hit_share.map(percent) },
    Row { name: "cost per 1M output tokens", read: |arm| arm.cost?.per_million_output_tokens.map(figure) },
    Row { name: "good requests per unit of cost", read: |arm| arm.cost?.requests_within_objectives_per_unit.map(figure) },
];

/// A row that has nothing to say of any arm is left out.
fn row_of(table: &mut Table, name: &str, arms: &[SimulatedArm], read: impl Fn(&SimulatedArm) -> Option<String>) {
    let cells: Vec<Option<String>> = arms.iter().map(read).collect();
    if cells.iter().any(Option::is_some) {
        let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| NOT_MEASURED.to_string()));
        table.add_row(std::iter::once(name.to_string()).chain(cells));
    }
}

fn quantiles(latency: &Latency, with_p99: bool) -> String {
    let all = [Some(latency.p50), Some(latency.p95), with_p99.then_some(latency.p99)];
    all.into_iter().flatten().map(|value| or_not_measured(value, ms)).collect::<Vec<_>>().join("/")
}

fn depths(arm: &SimulatedArm) -> String {
    let depth = arm.queue_depth_mean;
    let text = |depth: Option<f64>| depth.map_or("-".to_string(), |depth| format!("{depth:.1}"));
    [depth.prefill, depth.decode, depth.shared].map(text).join("/")
}

fn moves(arm: &SimulatedArm) -> String {
    if arm.recomputed == 0 { arm.handoffs.to_string() } else { format!("{}, {} computed again", arm.handoffs, arm.recomputed) }
}

fn tiers(arms: &[SimulatedArm]) -> Vec<&str> {
    let mut tiers: Vec<&str> = Vec::new();
    for engine in arms.iter().flat_map(|arm| &arm.engines) {
        if !tiers.contains(&engine.tier.as_str()) {
            tiers.push(&engine.tier);
        }
    }
    tiers
}

/// Engines of one tier that are shown one by one, at most; of more, the least and the most busy one.
const ENGINES_SHOWN: usize = 4;

fn utilisation(arm: &SimulatedArm, tier: &str) -> String {
    let mut busy: Vec<f64> = arm.engines.iter().filter(|e| e.tier == tier).filter_map(|e| e.utilisation).collect();
    if busy.len() > ENGINES_SHOWN {
        busy.sort_by(f64::total_cmp);
        return format!("{:.0} to {:.0}", busy[0] * 100.0, busy[busy.len() - 1] * 100.0);
    }
    if busy.is_empty() {
        NOT_MEASURED.into()
    } else {
        busy.iter().map(|b| format!("{:.0}", b * 100.0)).collect::<Vec<_>>().join(" ")
    }
}
