//! TEST ONLY: invented runs, the same on every machine. No figure here was measured, and none of it is in the program.

use std::io::Write;
use std::path::Path;

use rand::Rng as _;

use dualpool_types::arm::{controlled, tried_candidates};
use dualpool_types::artifact::*;
use dualpool_types::records::{EngineSample, HandoffKind, HandoffRecord, LegRecord, Outcome, RequestRecord};
use dualpool_types::{
    Arrangement, Bytes, Class, EngineId, Micros, Objectives, Phase, PolicyKind, RequestError, RequestId, Rng, Role, Tuning, seeded,
};

use super::Artifacts;
use super::figures::figures;
use super::metric::{self, Better, Metric, Unit};

/// How an invented arm serves: medians in ms.
#[derive(Clone, Copy)]
struct Service {
    policy: PolicyKind,
    short_ttft: f64,
    long_ttft: f64,
    itl: f64,
    /// How often a gap is a stall behind a prompt's chunk, and how long that is.
    stall_share: f64,
    stall: f64,
    /// Whether one request of each repetition fails, so that failures are seen wherever they should be.
    fails: bool,
}

const LEAST_LOAD: Service = Service {
    policy: PolicyKind::LeastLoad,
    short_ttft: 210.0,
    long_ttft: 900.0,
    itl: 28.0,
    stall_share: 0.05,
    stall: 620.0,
    fails: false,
};
const ROUND_ROBIN: Service = Service { policy: PolicyKind::RoundRobin, short_ttft: 330.0, fails: true, ..LEAST_LOAD };
const TUNED: Service = Service {
    policy: PolicyKind::Balanced,
    short_ttft: 120.0,
    long_ttft: 1250.0,
    itl: 36.0,
    stall_share: 0.12,
    stall: 140.0,
    fails: false,
};
const DEDICATED: Service = Service {
    policy: PolicyKind::Dedicated,
    short_ttft: 85.0,
    long_ttft: 1500.0,
    itl: 27.0,
    stall_share: 0.06,
    stall: 240.0,
    fails: false,
};
const FULL: Service = Service {
    policy: PolicyKind::FullDisaggregation,
    short_ttft: 420.0,
    long_ttft: 1100.0,
    itl: 24.0,
    stall_share: 0.01,
    stall: 60.0,
    fails: false,
};
const AUTO: Service = Service { policy: PolicyKind::Auto, ..TUNED };
const DUAL: Service = Service {
    policy: PolicyKind::DualPool,
    short_ttft: 80.0,
    long_ttft: 1450.0,
    itl: 25.0,
    stall_share: 0.02,
    stall: 75.0,
    fails: false,
};

/// Four arms and a control, 24 requests, 6 repetitions.
pub(crate) fn small() -> Artifacts {
    let arms = [
        ("shared_least_load", LEAST_LOAD),
        ("shared_tuned", TUNED),
        ("full_disaggregation", FULL),
        ("dual_pool", DUAL),
        ("shared_tuned_control", TUNED),
    ];
    artifacts(&arms, 24, 6)
}

/// All seven arms and a control, 36 requests, 9 repetitions.
pub(crate) fn large() -> Artifacts {
    let arms = [
        ("shared_round_robin", ROUND_ROBIN),
        ("shared_least_load", LEAST_LOAD),
        ("shared_tuned", TUNED),
        ("dedicated", DEDICATED),
        ("full_disaggregation", FULL),
        ("dual_pool", DUAL),
        ("best_found", DUAL),
        ("shared_tuned_control", TUNED),
    ];
    artifacts(&arms, 36, 9)
}

/// The five arms that run where none are named, and a control, with planned comparisons: 36 requests, 9 repetitions.
pub(crate) fn by_default() -> Artifacts {
    let arms = [
        ("shared_round_robin", Service { fails: false, ..ROUND_ROBIN }),
        ("shared_tuned", TUNED),
        ("dedicated", DEDICATED),
        ("dual_pool", DUAL),
        ("auto", AUTO),
        ("shared_tuned_control", TUNED),
    ];
    artifacts(&arms, 36, 9)
}

/// Writes a run folder as the harness does.
pub(crate) fn write(artifacts: &Artifacts, dir: &Path) {
    let json = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    json("run.json", serde_json::to_string_pretty(&artifacts.run).unwrap());
    if let Some(summary) = &artifacts.summary {
        json("summary.json", serde_json::to_string_pretty(summary).unwrap());
    }
    lines(&dir.join("requests.jsonl"), &artifacts.requests);
    lines(&dir.join("samples.jsonl"), &artifacts.samples);
}

fn lines<T: serde::Serialize>(path: &Path, records: &[T]) {
    let mut file = std::fs::File::create(path).unwrap();
    for record in records {
        writeln!(file, "{}", serde_json::to_string(record).unwrap()).unwrap();
    }
}

fn artifacts(arms: &[(&str, Service)], requests_per_run: u32, repetitions: u32) -> Artifacts {
    let (mut requests, mut samples) = (Vec::new(), Vec::new());
    for repetition in 0..repetitions {
        for (name, service) in arms {
            let served = serve(name, *service, repetition, requests_per_run);
            samples.extend(sample(name, service.policy, repetition, &served));
            requests.extend(served);
        }
    }
    let environment = environment();
    let summaries: Vec<ArmSummary> = arms
        .iter()
        .map(|(name, _)| {
            let own: Vec<&RequestRecord> = requests.iter().filter(|r| r.arm == *name).collect();
            let sampled: Vec<&EngineSample> = samples.iter().filter(|s| s.arm == *name).collect();
            figures(name, controlled(name).is_some(), &own, &sampled, &environment)
        })
        .collect();
    let identical = |(name, i): (&str, u32)| {
        let compared = requests_per_run * repetitions;
        (name.to_string(), Identical { same: compared - i % 4, compared })
    };
    let summary = Summary {
        schema_version: RUN_SCHEMA_VERSION,
        target: "dual_pool".into(),
        environment: environment.clone(),
        mix: "balanced".into(),
        arrivals: "poisson".into(),
        rate_rps: Some(14.0),
        repetitions,
        objectives: SummaryObjectives { ttft_short_ms: 500.0, ttft_long_ms: 3000.0, itl_ms: 200.0 },
        comparisons: comparisons(&summaries, repetitions),
        identical_requests: arms.iter().skip(1).map(|(name, _)| *name).zip(1..).map(identical).collect(),
        arms: summaries,
        exact: false,
        held_blocks_after: 0,
        drained: vec![],
        expectations: None,
    };
    let planned: Vec<Arrangement> =
        arms.iter().filter(|(name, _)| controlled(name).is_none()).map(|(name, s)| arrangement(name, s.policy)).collect();
    Artifacts {
        dir: "run".into(),
        run: run(planned, environment, repetitions),
        summary: Some(summary),
        requests,
        samples,
        notes: vec![],
    }
}

fn run(arms: Vec<Arrangement>, environment: Environment, repetitions: u32) -> RunInfo {
    let mut search: Vec<SearchTrial> = [512, 128, 64]
        .into_iter()
        .zip([0.71, 0.88, 0.86])
        .map(|(chunk, goodput_share)| {
            let mut arrangement = arrangement("shared_tuned", PolicyKind::Balanced);
            let tuning = Tuning { max_num_batched_tokens: Some(chunk + 64), long_prefill_token_threshold: Some(chunk) };
            arrangement.tunings = vec![tuning; 2];
            SearchTrial {
                arrangement,
                forecast: goodput_share,
                forecast_overruled: None,
                requests: 20,
                goodput_share: Some(goodput_share),
                score: Some(goodput_share - 0.01),
                chosen_for: None,
            }
        })
        .collect();
    search[1].chosen_for = Some("shared_tuned".into());
    RunInfo {
        command: ["dualpool", "run", "dual_pool", "--mix", "balanced"].map(String::from).to_vec(),
        settings: serde_json::json!({"workload": {"mix": "balanced", "seed": 1}}),
        arms,
        seeds: (1..=u64::from(repetitions)).collect(),
        rate_rps: Some(14.0),
        saturation_rps: Some(20.0),
        phases: [("engine start", 21_000_000), ("warm-up", 6_000_000), ("measurement", 402_000_000), ("tear-down", 1_500_000)]
            .map(|(name, us)| PhaseTime { name: name.into(), us: Micros(us) })
            .to_vec(),
        search,
        ..RunInfo::begun("dual_pool", "7f3a", "2026-01-05T10:30:00Z", environment)
    }
}

fn environment() -> Environment {
    let engine = |id: u16| EnvironmentEngine { id: EngineId(id), device: format!("cores {id}"), block_size: 128, kv_blocks: 600 };
    Environment {
        dualpool: "0.1.0".into(),
        backend: "vllm 0.32.0".into(),
        model: "smollm2-135m-instruct".into(),
        dtype: "bfloat16".into(),
        os: "Linux 6.1".into(),
        cpu: "AMD EPYC 9B14".into(),
        cores: Some(2),
        memory_bytes: Some(24 << 30),
        gpus: vec![],
        engines: vec![engine(0), engine(1)],
    }
}

fn roles(policy: PolicyKind) -> [Role; 2] {
    match policy {
        PolicyKind::Dedicated | PolicyKind::DualPool | PolicyKind::FullDisaggregation => [Role::Prefill, Role::Decode],
        _ => [Role::Shared; 2],
    }
}

fn arrangement(name: &str, policy: PolicyKind) -> Arrangement {
    let tuned = Tuning { max_num_batched_tokens: Some(192), long_prefill_token_threshold: Some(128) };
    let tuning = if name == "shared_tuned" { tuned } else { Tuning::default() };
    Arrangement { name: name.into(), policy, roles: roles(policy).to_vec(), tunings: vec![tuning; 2], long_prompt_tokens_min: 256 }
}

/// `median` times a factor around 1, with a heavier tail upwards.
fn draw(rng: &mut Rng, median: f64, spread: f64) -> Micros {
    let centred: f64 = (0..3).map(|_| rng.random::<f64>()).sum::<f64>() - 1.5;
    Micros::from_ms(median * (spread * centred).exp())
}

fn serve(arm: &str, service: Service, repetition: u32, requests: u32) -> Vec<RequestRecord> {
    // Arrivals are the same for every arm of a repetition; what becomes of them is not.
    let mut arrivals = seeded(u64::from(repetition), "fixture arrivals");
    let mut rng = seeded(u64::from(repetition), arm);
    let mut at = Micros::ZERO;
    let mut served = Vec::new();
    for index in 0..requests {
        at += draw(&mut arrivals, 60.0, 2.0);
        let class = if index % 9 == 4 { Class::Long } else { Class::Short };
        served.push(request(arm, service, repetition, index, class, at, &mut rng));
    }
    if let Some(last) = served.last_mut().filter(|_| service.fails) {
        last.outcome = Outcome::Failed { error: RequestError::Cancelled { phase: Phase::Decode } };
    }
    served
}

fn request(
    arm: &str,
    service: Service,
    repetition: u32,
    index: u32,
    class: Class,
    arrived: Micros,
    rng: &mut Rng,
) -> RequestRecord {
    let long = class == Class::Long;
    let ttft_ms = if long { service.long_ttft } else { service.short_ttft };
    let submitted = arrived + draw(rng, 0.4, 0.5);
    let first = submitted + draw(rng, ttft_ms, 1.3);
    let mut token_us = vec![first];
    for _ in 1..32 {
        let stalled = rng.random::<f64>() < service.stall_share;
        let gap = draw(rng, if stalled { service.stall } else { service.itl }, 0.5);
        token_us.push(*token_us.last().unwrap() + gap);
    }
    let ended = *token_us.last().unwrap();
    let [first_role, second_role] = roles(service.policy);
    let moves = service.policy == PolicyKind::FullDisaggregation || service.policy == PolicyKind::DualPool && long;
    let leg = |engine: u16, role, submitted_us, first: Micros, ended: Micros, output_tokens| LegRecord {
        engine: EngineId(engine),
        role,
        submitted_us,
        first_token_us: Some(first),
        ended_us: Some(ended),
        output_tokens,
        cached_tokens: 0,
    };
    let (mut legs, mut handoffs) = (Vec::new(), Vec::new());
    if moves {
        legs.push(leg(0, first_role, submitted, first, first, 1));
        legs.push(leg(1, second_role, first, token_us[1], ended, 31));
        let gap = (token_us[1] - first).0;
        handoffs.push(HandoffRecord {
            kind: HandoffKind::Handoff,
            from: EngineId(0),
            to: EngineId(1),
            started_us: first,
            copy_wait_us: Some(Micros(0)),
            copy_started_us: Some(first + Micros(gap / 5)),
            copy_us: Some(Micros(gap / 3)),
            computed_us: Some(token_us[1] - Micros(gap / 10)),
            ended_us: Some(token_us[1]),
            bytes: Bytes::from_mib(if long { 23 } else { 2 }),
            byte_ranges: 240,
            recomputed: false,
        });
    } else {
        let engine = if first_role == Role::Shared { (index % 2) as u16 } else { u16::from(!long) };
        let role = if engine == 0 { first_role } else { second_role };
        legs.push(leg(engine, role, submitted, first, ended, 32));
    }
    RequestRecord {
        arm: arm.into(),
        repetition,
        id: RequestId(u64::from(index)),
        index,
        class,
        wave: None,
        turn: None,
        prompt_tokens: if long { 1024 } else { 64 },
        objectives: Objectives { ttft_us_max: Micros(if long { 3_000_000 } else { 500_000 }), itl_us_max: Micros(200_000) },
        arrived_us: arrived,
        admitted_us: Some(arrived),
        tokens: (0..32).collect(),
        token_us,
        legs,
        handoffs,
        ended_us: ended,
        outcome: Outcome::Done,
    }
}

/// What the engines would have said of themselves every 50 ms.
fn sample(arm: &str, policy: PolicyKind, repetition: u32, requests: &[RequestRecord]) -> Vec<EngineSample> {
    let end = requests.iter().map(|r| r.ended_us).max().unwrap();
    let mut samples = Vec::new();
    for at_us in (0..end.0).step_by(50_000).map(Micros) {
        for (engine, role) in [EngineId(0), EngineId(1)].into_iter().zip(roles(policy)) {
            let legs: Vec<&LegRecord> = requests
                .iter()
                .flat_map(|r| &r.legs)
                .filter(|l| l.engine == engine && l.submitted_us <= at_us && l.ended_us.unwrap() > at_us)
                .collect();
            let waiting = legs.iter().filter(|l| l.first_token_us.unwrap() > at_us).count() as u32;
            let running = legs.len() as u32 - waiting;
            let kv_usage = legs.len() as f32 / 64.0;
            samples.push(EngineSample {
                arm: arm.into(),
                repetition,
                at_us,
                engine,
                role,
                waiting,
                running,
                kv_usage: Some(kv_usage),
                prefix_hits: Some(0),
                transfers_in: 0,
            });
        }
    }
    samples
}

/// Ratios of the figures with an invented interval of 12 % to both sides, of shares 4 points: against two baselines, and of shares all others.
fn comparisons(arms: &[ArmSummary], repetitions: u32) -> Vec<Comparison> {
    let metrics = [
        metric::GOODPUT,
        metric::SHORT_TTFT_P95,
        metric::LONG_TTFT_P95,
        metric::ITL_P50,
        metric::ITL_P99,
        metric::THROUGHPUT,
        metric::COMPLETION,
    ];
    let mut comparisons: Vec<Comparison> = Vec::new();
    for baseline in [&arms[0], arms.iter().find(|a| a.name == "shared_tuned").unwrap()] {
        for candidate in
            arms.iter().filter(|a| a.name != baseline.name && (!a.control || controlled(&a.name) == Some(baseline.name.as_str())))
        {
            comparisons.extend(metrics.into_iter().map(|metric| comparison(metric, baseline, candidate, repetitions)));
        }
    }
    for (i, baseline) in arms.iter().enumerate() {
        for candidate in arms[i + 1..].iter().filter(|a| !a.control) {
            let known =
                |c: &Comparison| [&c.baseline, &c.candidate].iter().all(|arm| [&baseline.name, &candidate.name].contains(arm));
            if !comparisons.iter().any(known) {
                comparisons.push(comparison(metric::GOODPUT, baseline, candidate, repetitions));
            }
        }
    }
    comparisons
}

fn comparison(metric: Metric, baseline: &ArmSummary, candidate: &ArmSummary, repetitions: u32) -> Comparison {
    let both = (metric.read)(candidate).zip((metric.read)(baseline));
    let (share, higher) = (metric.unit == Unit::Share, metric.better == Better::Higher);
    let effect = both.map(|(c, b)| if share { c - b } else { c / b });
    let even = if share { 0.0 } else { 1.0 };
    let at = |end: f64| effect.map(|effect| if share { effect + end / 3.0 } else { effect * (1.0 + end) });
    let (low, high) = (at(-0.12), at(0.12));
    let verdict = match (low, high) {
        (Some(low), _) if low > even => [Verdict::Worse, Verdict::Better][usize::from(higher)],
        (_, Some(high)) if high < even => [Verdict::Better, Verdict::Worse][usize::from(higher)],
        (Some(_), Some(_)) => Verdict::Undecided,
        _ => Verdict::NotMeasured,
    };
    let planned = [metric::GOODPUT, metric::SHORT_TTFT_P95, metric::ITL_P99].iter().any(|planned| planned.key == metric.key);
    Comparison {
        baseline: baseline.name.clone(),
        candidate: candidate.name.clone(),
        metric: metric.key.into(),
        planned: planned && baseline.name == "shared_tuned" && tried_candidates().any(|name| name == candidate.name),
        repetitions,
        ratio: effect.filter(|_| !share),
        difference: effect.filter(|_| share),
        p_value: None,
        visible: None,
        ci_low: low,
        ci_high: high,
        verdict,
    }
}
