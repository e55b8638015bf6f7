//! What is compared: workloads that the fit has not seen, by arrangements that differ in how requests get to engines.

use dualpool_router::CostModel;
use dualpool_types::{Arrangement, EngineInfo, PolicyKind, Tuning};
use dualpool_workload::{Mix, Mixed, ModelLimits, WorkItem, Workload, WorkloadSettings};

use crate::arms::Pools;
use crate::traffic::work_us;

/// The load that the requests are to make: queues form and drain.
const LOAD: f64 = 0.6;

/// The share of a workload's requests under `--quick`.
const QUICK_SCALE: f64 = 0.4;

/// A workload and an arrangement.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub workload: &'static str,
    pub policy: PolicyKind,
    /// Its name is the case's.
    pub arrangement: Arrangement,
    pub items: Vec<WorkItem>,
}

pub(super) fn cases(
    pools: &Pools,
    engines: &[EngineInfo],
    model: ModelLimits,
    costs: &CostModel,
    seed: u64,
    quick: bool,
) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (workload, items) in workloads(engines.len(), model, costs, seed, quick)? {
        let mut policies = vec![PolicyKind::RoundRobin, PolicyKind::LeastLoad];
        if engines.iter().all(|engine| engine.kv_transfer) {
            policies.push(PolicyKind::DualPool);
        }
        for policy in policies {
            let name = format!("{workload} by {}", policy.name());
            let untuned = Tuning::default();
            let arrangement = match policy.needs_pools() {
                true => pools.split(name, policy, untuned, untuned),
                false => pools.shared(name, policy, untuned),
            };
            cases.push(Case { workload, policy, arrangement, items: items.clone() });
        }
    }
    Ok(cases)
}

fn workloads(
    engines: usize,
    model: ModelLimits,
    costs: &CostModel,
    seed: u64,
    quick: bool,
) -> anyhow::Result<Vec<(&'static str, Vec<WorkItem>)>> {
    let scale = if quick { QUICK_SCALE } else { 1.0 };
    let mix = |mix| Workload::new(&WorkloadSettings { mix, ..WorkloadSettings::default() }).scaled(scale);
    let at_load = |workload: &Workload| {
        let rate = engines as f64 * LOAD / (work_us(&workload.upfront().generate(model.vocab_size, seed, None), costs) / 1e6);
        workload.generate(model.vocab_size, seed, Some(rate))
    };
    let mut mixed = Mixed { requests: (f64::from(Mixed::default().requests) * scale) as u32, ..Mixed::default() };
    let items: Vec<WorkItem> = mixed.items(model, seed)?.collect();
    mixed.rate = engines as f64 * LOAD / (work_us(&items, costs) / 1e6);
    Ok(vec![
        ("balanced", at_load(&mix(Mix::Balanced))),
        ("decode_heavy", at_load(&mix(Mix::DecodeHeavy))),
        ("mixed", mixed.items(model, seed)?.collect()),
    ])
}
