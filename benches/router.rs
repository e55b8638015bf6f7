//! What the router costs: one placement per policy, and the whole life of a request, with 2, 16 and 128 engines under load.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use dualpool_router::{Action, Ask, EngineFacts, Event, Router, RouterSettings, SignalSettings};
use dualpool_types::{
    Arrangement, Class, EngineId, EngineStats, FinishReason, HeldKv, LegId, Micros, Objectives, PolicyKind, Priority, Request,
    RequestId, Sampling, Time, TokenId, Tuning,
};

const ENGINES: [usize; 3] = [2, 16, 128];
const OBJECTIVES: Objectives = Objectives { ttft_us_max: Micros(500_000), itl_us_max: Micros(200_000) };

fn request(id: u64, prompt: &std::sync::Arc<[TokenId]>) -> Request {
    let (prompt, class) = (prompt.clone(), Class::Long);
    Request {
        id: RequestId(id),
        prompt,
        max_tokens: 32,
        ignore_eos: true,
        sampling: Sampling::default(),
        class,
        priority: Priority::Normal,
        objectives: OBJECTIVES,
    }
}

/// A router with four requests on each engine, or where its policy put them.
fn loaded(policy: PolicyKind, engines: usize) -> (Router, Vec<Action>) {
    let facts = EngineFacts {
        max_model_len: 8192,
        max_num_batched_tokens: 2048,
        max_num_seqs: 64,
        kv_tokens: 1 << 20,
        kv_transfer: true,
        prefix_block_tokens: 16,
        cost_per_hour: None,
    };
    let settings = RouterSettings {
        max_in_flight: 4096,
        signals: SignalSettings { warm_up_requests: 0, ..SignalSettings::default() },
        ..RouterSettings::default()
    };
    let mut router = Router::new(&vec![facts; engines], &settings);
    let ids: Vec<EngineId> = (0..engines as u16).map(EngineId).collect();
    let (prefill, decode) = ids.split_at(engines / 2);
    let (name, tuning) = (policy.name(), Tuning::default());
    let arrangement = if policy.needs_pools() {
        Arrangement::pools(name, policy, prefill, decode, engines, tuning, tuning, 256).expect("both pools have engines")
    } else {
        Arrangement::shared(name, policy, engines, tuning)
    };
    router.arrange(&arrangement).expect("the arrangement fits the fleet");
    let (short, long): (Vec<TokenId>, Vec<TokenId>) = (vec![1; 64], vec![1; 1024]);
    let (short, long) = (short.into(), long.into());
    let mut actions = Vec::new();
    for id in 0..4 * engines as u64 {
        let prompt = if id % 4 == 0 { &long } else { &short };
        router.handle(Time(id), Event::Arrived(request(1 << 32 | id, prompt)), &mut actions);
    }
    (router, actions)
}

/// The same with every signal of every engine known and fresh.
fn watched(policy: PolicyKind, engines: usize) -> Router {
    let (mut router, sent) = loaded(policy, engines);
    let legs = sent.iter().filter_map(|action| match action {
        Action::Submit { engine, leg } => Some((*engine, leg.id)),
        _ => None,
    });
    let mut actions = Vec::new();
    for (engine, leg) in legs {
        for round in 1..4 {
            let now = Time(20_000 * round);
            router.handle(now, Event::Output { leg, tokens: &[7], cached_tokens: None, finish: None }, &mut actions);
            let (tokens, running) = (64 * round, 4);
            let stats = EngineStats {
                running,
                steps: round,
                prompt_tokens_computed: tokens,
                output_tokens: tokens,
                ..EngineStats::default()
            };
            router.handle(now, Event::EngineStats { engine, stats }, &mut actions);
        }
    }
    router
}

/// The policies that go by all there is, on what they go by.
fn scoring(c: &mut Criterion) {
    let mut group = c.benchmark_group("scoring");
    for policy in [PolicyKind::Score, PolicyKind::PredictedLatency] {
        for engines in [8, 64] {
            let mut router = watched(policy, engines);
            let ask = Ask { prompt_tokens: 4096, outputs: 32, objectives: OBJECTIVES };
            group
                .bench_function(BenchmarkId::new(policy.name(), engines), |b| b.iter(|| black_box(router.decide(black_box(&ask)))));
        }
    }
}

fn decision(c: &mut Criterion) {
    let mut group = c.benchmark_group("decision");
    for policy in PolicyKind::ALL {
        for engines in ENGINES {
            let (mut router, _) = loaded(policy, engines);
            let asks = [64, 1024].map(|prompt_tokens| Ask { prompt_tokens, outputs: 32, objectives: OBJECTIVES });
            let mut turn = 0;
            group.bench_function(BenchmarkId::new(policy.name(), engines), |b| {
                b.iter(|| {
                    turn += 1;
                    black_box(router.decide(black_box(&asks[turn % 2])))
                });
            });
        }
    }
}

/// Arrival, prefill, hand-off, 31 more tokens, end: 34 events.
fn life(c: &mut Criterion) {
    let mut group = c.benchmark_group("life");
    let prompt: std::sync::Arc<[TokenId]> = vec![1; 1024].into();
    for engines in ENGINES {
        let (mut router, _) = loaded(PolicyKind::FullDisaggregation, engines);
        let (mut actions, mut id) = (Vec::<Action>::new(), 0);
        group.bench_function(BenchmarkId::new("full_disaggregation", engines), |b| {
            b.iter(|| {
                id += 1;
                let now = Time(id);
                let leg = |leg| LegId { request: RequestId(id), leg };
                let output = |leg, finish| Event::Output { leg, tokens: &[7], cached_tokens: None, finish };
                router.handle(now, Event::Arrived(request(id, &prompt)), &mut actions);
                let held = Some(HeldKv { tokens: 1024 });
                router.handle(now, output(leg(0), Some((&FinishReason::Length, held))), &mut actions);
                for token in 0..31 {
                    let finish = (token == 30).then_some((&FinishReason::Length, None));
                    router.handle(now, output(leg(1), finish), &mut actions);
                }
                assert!(matches!(actions.last(), Some(Action::Finish { result: Ok(()), .. })));
                actions.clear();
            });
        });
    }
}

criterion_group!(benches, decision, scoring, life);
criterion_main!(benches);
