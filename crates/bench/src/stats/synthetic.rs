//! Records with known times, for tests of what is computed from records.

use rand_distr::{Distribution, LogNormal};

use dualpool_types::records::{LegRecord, Outcome, RequestRecord};
use dualpool_types::{Class, EngineId, Micros, Objectives, RequestId, Role, seeded};

use super::bootstrap::{Population, Stratum};

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
    let arrived_us = Micros(u64::from(index) * 100_000);
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

/// What the bootstrap draws from, for arms with the same requests as this one: population, first slots, number of slots.
pub(super) fn population(requests: &[RequestRecord]) -> (Population, Vec<u32>, usize) {
    let repetitions = by_repetition(requests);
    let strata: Vec<Vec<Stratum>> = repetitions.iter().map(|r| r.iter().map(|r| (r.class, r.wave)).collect()).collect();
    let first_slot = (0..repetitions.len()).map(|r| (r * repetitions[0].len()) as u32).collect();
    (Population::new(&strata), first_slot, requests.len())
}
