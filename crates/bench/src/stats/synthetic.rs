//! Records with known times, for tests of what is computed from records.

use rand::Rng as _;
use rand_distr::{Distribution, LogNormal};

use dualpool_types::records::{LegRecord, Outcome, RequestRecord};
use dualpool_types::{Class, EngineId, Micros, Objectives, RequestId, Role, seeded};

/// An arm's requests, whose TTFT and ITL are `stretch` times the plain ones: 40 to 99 ms to the first token, 10 to 19 ms between
/// tokens. Objectives are 200 ms and 60 ms; every fifth request is long.
pub(crate) fn arm(name: &str, repetitions: u32, requests: u32, stretch: f64) -> Vec<RequestRecord> {
    build(name, repetitions, requests, |_, index| {
        let (ttft, itl) = (40.0 + f64::from(index % 60), 10.0 + f64::from(index % 10));
        (ttft * stretch, itl * stretch)
    })
}

/// The same with times from a wide distribution, and repetitions that differ from each other.
pub(crate) fn noisy(name: &str, repetitions: u32, requests: u32, stretch: f64, seed: u64) -> Vec<RequestRecord> {
    let mut rng = seeded(seed, "synthetic");
    let spread = LogNormal::<f64>::new(0.0, 0.3).expect("a positive deviation");
    let drift: Vec<f64> = (0..repetitions).map(|_| spread.sample(&mut rng).powf(0.1)).collect();
    build(name, repetitions, requests, |repetition, _| {
        let scale = stretch * drift[repetition as usize];
        (60.0 * scale * spread.sample(&mut rng), 15.0 * scale * spread.sample(&mut rng))
    })
}

/// Requests that share the queue of two engines, each of which serves six at a time and is the slower the more it serves. Arrivals and sizes are
/// those of the repetition, the same in every arm; each run as a whole is faster or slower by about `runs_differ_by`.
pub(crate) fn queue(
    name: &str,
    repetitions: u32,
    requests: u32,
    stretch: f64,
    runs_differ_by: f64,
    seed: u64,
) -> Vec<RequestRecord> {
    let (mut of_run, spread) = (seeded(seed, "runs"), LogNormal::<f64>::new(0.0, runs_differ_by).expect("no negative deviation"));
    let mut records = Vec::new();
    for repetition in 0..repetitions {
        let pace = stretch * spread.sample(&mut of_run);
        let mut shared = seeded(u64::from(repetition), "queue");
        let mut arrivals: Vec<f64> = (0..requests).map(|_| shared.random::<f64>() * f64::from(requests) * 100.0).collect();
        arrivals.sort_by(f64::total_cmp);
        let mut free = [0.0_f64; 12];
        for (index, arrived_ms) in (0..).zip(arrivals) {
            let busy = free.iter().filter(|&&until| until > arrived_ms).count() as f64;
            let noise = 1.0 + 0.3 * of_run.random::<f64>();
            let (prefill, itl) = (pace * noise * 60.0, pace * noise * (10.0 + 2.0 * busy));
            let Some(server) = free.iter_mut().min_by(|a, b| a.total_cmp(b)) else { continue };
            let wait = (*server - arrived_ms).max(0.0);
            *server = arrived_ms + wait + prefill + 8.0 * itl * 8.0;
            records.push(record_at(name, repetition, index, arrived_ms, wait + prefill, itl));
        }
    }
    records
}

fn build(name: &str, repetitions: u32, requests: u32, mut times_ms: impl FnMut(u32, u32) -> (f64, f64)) -> Vec<RequestRecord> {
    let mut records = Vec::new();
    for repetition in 0..repetitions {
        for index in 0..requests {
            let (ttft, itl) = times_ms(repetition, index);
            records.push(record(name, repetition, index, ttft, itl));
        }
    }
    records
}

fn record(arm: &str, repetition: u32, index: u32, ttft_ms: f64, itl_ms: f64) -> RequestRecord {
    record_at(arm, repetition, index, f64::from(index) * 100.0, ttft_ms, itl_ms)
}

fn record_at(arm: &str, repetition: u32, index: u32, arrived_ms: f64, ttft_ms: f64, itl_ms: f64) -> RequestRecord {
    let arrived_us = Micros::from_ms(arrived_ms);
    let token_us: Vec<Micros> = (0..8).map(|i| arrived_us + Micros::from_ms(ttft_ms + itl_ms * f64::from(i))).collect();
    let ended_us = token_us[7];
    RequestRecord {
        arm: arm.to_string(),
        repetition,
        id: RequestId(u64::from(repetition * 10_000 + index)),
        index,
        class: if index.is_multiple_of(5) { Class::Long } else { Class::Short },
        wave: None,
        turn: None,
        prompt_tokens: 64,
        objectives: Objectives { ttft_us_max: Micros(200_000), itl_us_max: Micros(60_000) },
        arrived_us,
        admitted_us: Some(arrived_us),
        legs: vec![LegRecord {
            engine: EngineId((index % 2) as u16),
            role: Role::Shared,
            submitted_us: arrived_us,
            first_token_us: Some(token_us[0]),
            ended_us: Some(ended_us),
            output_tokens: 8,
            cached_tokens: 0,
        }],
        token_us,
        tokens: (0..8).map(|i| index * 10 + i).collect(),
        handoffs: vec![],
        ended_us,
        outcome: Outcome::Done,
    }
}

/// The requests of one arm, by repetition.
pub(crate) fn by_repetition(requests: &[RequestRecord]) -> Vec<Vec<&RequestRecord>> {
    let repetitions = requests.iter().map(|r| r.repetition + 1).max().unwrap_or(0);
    (0..repetitions).map(|n| requests.iter().filter(|r| r.repetition == n).collect()).collect()
}
