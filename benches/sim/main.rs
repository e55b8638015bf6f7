//! What the simulator costs. `steps` counts engine steps, with the router and all else that belongs to them; `hour` is an hour of a chat
//! service on 16 engines, as requests per second of real time.

mod conversations;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use dualpool_model::{Timing, VirtualSettings};
use dualpool_router::{CostModel, RouterSettings};
use dualpool_sim::{Faults, Simulation, Totals};
use dualpool_types::{Arrangement, PolicyKind, Tuning};

use conversations::{Conversations, REQUESTS};

const ENGINES: usize = 16;

/// A GPU that computes 20,000 prompt tokens per second and decodes in steps of 8 ms.
fn engine() -> VirtualSettings {
    VirtualSettings {
        timing: Timing {
            step_us: 1_000.0,
            decode_step_us: 7_000.0,
            decode_us: 30.0,
            prefill_us: 50.0,
            context_us: 0.002,
            copy_us: 2_000.0,
            copy_us_per_token: 1.0,
            ..Timing::default()
        },
        block_size: 16,
        kv_blocks: 20_000,
        max_model_len: 131_072,
        max_num_batched_tokens: 8_192,
        max_num_seqs: 256,
        ..VirtualSettings::default()
    }
}

fn hour(requests: usize) -> Totals {
    let engines = vec![engine(); ENGINES];
    let arrangement = Arrangement::shared("bench", PolicyKind::LeastLoad, ENGINES, Tuning::default());
    let router = RouterSettings { max_in_flight: 100_000, ..RouterSettings::default() };
    let (costs, faults) = (CostModel::default(), Faults::default());
    let simulation = Simulation { engines: &engines, arrangement: &arrangement, router: &router, costs, faults: &faults, seed: 1 };
    let mut ended = 0;
    let totals = simulation.serve(Conversations::new(1).take(requests), |_| ended += 1).expect("a sound simulation");
    assert_eq!(ended, requests, "every request ends");
    totals
}

fn sim(c: &mut Criterion) {
    let mut group = c.benchmark_group("sim");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    let part = REQUESTS as usize / 10;
    group.throughput(Throughput::Elements(hour(part).steps));
    group.bench_function("steps", |b| b.iter(|| hour(part)));
    group.throughput(Throughput::Elements(REQUESTS));
    group.bench_function("hour", |b| b.iter(|| hour(REQUESTS as usize)));
    group.finish();
}

criterion_group!(benches, sim);
criterion_main!(benches);
