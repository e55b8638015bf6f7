//! The router that adapts, on modelled engines: what it wins where the mix of requests changes.

use std::collections::BTreeMap;

use dualpool_bench::arms::Pools;
use dualpool_bench::search;
use dualpool_machine::PoolSettings;
use dualpool_model::VirtualSettings;
use dualpool_report::measure::within_objectives;
use dualpool_router::{CostModel, RoleSettings, RouterSettings};
use dualpool_types::records::{NoteRecord, RequestRecord, RouterNote};
use dualpool_types::{
    Arrangement, Class, EngineId, EngineInfo, Micros, Objectives, PolicyKind, Priority, Request, RequestId, Role, Sampling, Time,
    Tuning,
};
use dualpool_workload::{Mix, ObjectiveSettings, Workload, WorkloadSettings};

const VOCAB_SIZE: u32 = 32_000;
/// Of the noise in the length of steps.
const NOISE_SEED: u64 = 5;

/// Requests per second at which two engines like the default virtual one, served by `least_load` with all requests there at once, complete
/// each of the mixes that `changing` consists of.
const SATURATION: [f64; 3] = [13.1, 10.5, 8.4];

/// A mix that changes twice, each of its mixes for about 45 s at this load.
fn changing(load: f64, seed: u64, wanted: &ObjectiveSettings) -> Vec<(Time, Request)> {
    let settings = WorkloadSettings {
        mix: Mix::Changing,
        prefill_burst: 48,
        decode_requests: 192,
        continue_requests: 192,
        ..WorkloadSettings::default()
    };
    let items = Workload::new(&settings).paced(&SATURATION).generate(VOCAB_SIZE, seed, Some(load));
    items
        .into_iter()
        .map(|item| {
            let objectives = wanted.of(item.class);
            item.asked(objectives)
        })
        .collect()
}

fn engine() -> EngineInfo {
    let virtual_engine = VirtualSettings::default();
    EngineInfo {
        id: EngineId(0),
        device: "virtual".into(),
        model: "virtual".into(),
        backend: "virtual".into(),
        max_model_len: virtual_engine.max_model_len,
        vocab_size: VOCAB_SIZE,
        block_size: virtual_engine.block_size,
        kv_blocks: virtual_engine.kv_blocks,
        max_num_batched_tokens: virtual_engine.max_num_batched_tokens,
        max_num_seqs: virtual_engine.max_num_seqs,
        kv_transfer: true,
        prefix_caching: true,
        pid: None,
    }
}

fn share(records: &[RequestRecord]) -> f64 {
    records.iter().filter(|record| within_objectives(record)).count() as f64 / records.len() as f64
}

fn machine() -> VirtualSettings {
    VirtualSettings { timing: dualpool_sim::timing(&CostModel::default()), ..VirtualSettings::default() }
}

#[test]
fn auto_beats_every_static_arrangement_where_the_mix_changes_twice() {
    let costs = CostModel::default();
    let wanted = ObjectiveSettings { ttft_short_ms: 500.0, ttft_long_ms: 3_000.0, itl_ms: 200.0, ..ObjectiveSettings::default() };
    let pools = Pools::new(&PoolSettings::default(), &RouterSettings::default(), 2).unwrap();
    let step = costs.batched_tokens_within(Micros::from_ms(wanted.itl_ms * 0.9));
    let candidates = search::candidates(&pools, &engine(), 64, step);
    let auto = pools.arm(dualpool_types::Arm::Auto, &BTreeMap::new());
    assert_eq!(auto.policy, PolicyKind::Auto);
    let (mut adapted, mut fixed) = (0.0, vec![0.0; candidates.len()]);
    for seed in [100, 101, 102, 103] {
        let requests = changing(0.8, seed, &wanted);
        for (sum, candidate) in fixed.iter_mut().zip(&candidates) {
            *sum += share(&dualpool_sim::serve(candidate, &machine(), costs, &requests, NOISE_SEED).unwrap()) / 4.0;
        }
        let run = dualpool_sim::serve_by(&RouterSettings::default(), &auto, &machine(), costs, &requests, NOISE_SEED).unwrap();
        let changes = run.notes.iter().filter(|note| matches!(note.note, RouterNote::Rearranged { .. })).count();
        println!("seed {seed}: auto {:.3} with {changes} changes", share(&run.requests));
        assert!((2..=30).contains(&changes), "seed {seed}: {changes} changes");
        adapted += share(&run.requests) / 4.0;
    }
    for (share, candidate) in fixed.iter().zip(&candidates) {
        assert!(adapted > *share, "auto {adapted:.3}, `{}` {share:.3}", candidate.name);
    }
    println!("auto {adapted:.3}, best static {:.3}", fixed.iter().copied().fold(0.0, f64::max));
}

/// Prompts of 1000 tokens with short answers, then short prompts with long answers.
fn flip() -> Vec<(Time, Request)> {
    let objectives = Objectives { ttft_us_max: Micros(3_000_000), itl_us_max: Micros(60_000) };
    let request = |id: u64, prompt: u32, max_tokens: u32| Request {
        id: RequestId(id),
        prompt: (0..prompt).map(|i| 64 + (i * 31 + id as u32 * 7) % 1_000).collect(),
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::default(),
        class: Class::Long,
        priority: Priority::Normal,
        objectives,
    };
    let prefill_heavy = (0..180).map(|i| (Time(i * 333_000), request(i, 1_000, 8)));
    let decode_heavy = (0..300).map(|i| (Time(65_000_000 + i * 200_000), request(1_000 + i, 64, 400)));
    prefill_heavy.chain(decode_heavy).collect()
}

#[test]
fn engines_that_change_pools_help_where_prefill_turns_into_decode() {
    let ids = |ids: [u16; 2]| ids.map(EngineId);
    let none = Tuning::default();
    let arrangement =
        Arrangement::pools("2+2", PolicyKind::FullDisaggregation, &ids([0, 1]), &ids([2, 3]), 4, none, none, 256).unwrap();
    let (requests, costs) = (flip(), CostModel::default());
    let serve = |enabled| {
        let router = RouterSettings { roles: RoleSettings { enabled, ..RoleSettings::default() }, ..RouterSettings::default() };
        dualpool_sim::serve_by(&router, &arrangement, &machine(), costs, &requests, NOISE_SEED).unwrap()
    };
    let (fixed, adapted) = (serve(false), serve(true));
    let roles: Vec<(Micros, Role)> = adapted
        .notes
        .iter()
        .filter_map(|NoteRecord { at_us, note, .. }| match note {
            RouterNote::RoleChanged { to, .. } => Some((*at_us, *to)),
            _ => None,
        })
        .collect();
    println!("fixed {:.3}, adapted {:.3}, changes {roles:?}", share(&fixed.requests), share(&adapted.requests));
    assert!(fixed.notes.is_empty());
    assert!(roles.iter().any(|(_, to)| *to == Role::Prefill) && roles.iter().any(|(_, to)| *to == Role::Decode));
    assert!(roles.windows(2).all(|pair| pair[1].0 - pair[0].0 >= Micros(10_000_000)), "{roles:?}");
    assert!(share(&adapted.requests) > share(&fixed.requests));
}
