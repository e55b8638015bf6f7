//! What a request's record says of the service it got.

use std::collections::BTreeMap;

use dualpool_types::records::{Outcome, RequestRecord};
use dualpool_types::{Class, Micros};

/// From arrival to the first token; none when it never came.
pub fn ttft_ms(request: &RequestRecord) -> Option<f64> {
    request.token_us.first().map(|&at| (at - request.arrived_us).as_ms())
}

/// The gaps between output tokens.
pub fn itls_ms(request: &RequestRecord) -> impl Iterator<Item = f64> {
    request.token_us.windows(2).map(|pair| (pair[1] - pair[0]).as_ms())
}

/// The longest gap: the one an ITL objective is about. 0 for a single token.
pub fn longest_itl_ms(request: &RequestRecord) -> f64 {
    itls_ms(request).fold(0.0, f64::max)
}

/// What the repetitions of an arm came to as wholes: how long each took, from its first arrival to its last end, and how many requests
/// it completed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Repetitions {
    pub span_s: Vec<f64>,
    pub done: Vec<u32>,
}

impl Repetitions {
    pub fn of<'a>(requests: impl IntoIterator<Item = &'a RequestRecord>) -> Repetitions {
        let mut ends: BTreeMap<u32, (Micros, Micros, u32)> = BTreeMap::new();
        for r in requests {
            let (first, last, done) = ends.entry(r.repetition).or_insert((r.arrived_us, r.ended_us, 0));
            *first = r.arrived_us.min(*first);
            *last = r.ended_us.max(*last);
            *done += u32::from(is_done(r));
        }
        let (span_s, done) = ends.values().map(|&(first, last, done)| ((last - first).as_secs(), done)).unzip();
        Repetitions { span_s, done }
    }

    /// All repetitions together.
    pub fn total_s(&self) -> f64 {
        self.span_s.iter().sum()
    }

    pub fn throughput_rps(&self) -> Option<f64> {
        (self.total_s() > 0.0).then(|| f64::from(self.done.iter().sum::<u32>()) / self.total_s())
    }

    /// The mean over the repetitions.
    pub fn completion_ms(&self) -> Option<f64> {
        (!self.span_s.is_empty()).then(|| self.total_s() * 1e3 / self.span_s.len() as f64)
    }
}

pub fn is_done(request: &RequestRecord) -> bool {
    request.outcome == Outcome::Done
}

/// The strict rule: the first token in time, and no gap over the ITL objective.
pub fn within_objectives(request: &RequestRecord) -> bool {
    let in_time = |pair: &[Micros]| pair[1] - pair[0] <= request.objectives.itl_us_max;
    begun_in_time(request) && request.token_us.windows(2).all(in_time)
}

/// The rule that most benchmarks go by: the first token in time, and the mean ITL (TPOT) within the ITL objective.
pub fn within_objectives_by_tpot(request: &RequestRecord) -> bool {
    let gaps = request.token_us.len().saturating_sub(1) as u64;
    let whole = request.token_us.first().zip(request.token_us.last()).map(|(&first, &last)| last - first);
    begun_in_time(request) && whole.is_some_and(|whole| whole.0 <= request.objectives.itl_us_max.0.saturating_mul(gaps))
}

/// Done, with its first token within the TTFT objective.
fn begun_in_time(request: &RequestRecord) -> bool {
    let in_time = |first: &Micros| *first - request.arrived_us <= request.objectives.ttft_us_max;
    is_done(request) && request.token_us.first().is_some_and(in_time)
}

/// Where the time to the second token went, in ms. The parts up to the first token sum to the TTFT.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stages {
    /// From arrival to the first engine's door.
    pub queue: f64,
    /// From that engine's door to the first token: the engine's own queue and the prefill, which records do not tell apart.
    pub prefill: f64,
    /// From the end of the prefill leg to the start of the copy.
    pub handoff_wait: f64,
    pub copy: f64,
    /// The rest of the way to the second token.
    pub first_decode: f64,
}

impl Stages {
    /// None for a request that has no leg or fewer than two tokens.
    pub fn of(request: &RequestRecord) -> Option<Stages> {
        let (&first, &second) = (request.token_us.first()?, request.token_us.get(1)?);
        let submitted = request.legs.first()?.submitted_us;
        let gap = (second - first).as_ms();
        // A later hand-off is a migration in mid-decode and no part of the way to the second token.
        let early = request.handoffs.first().filter(|h| h.started_us < second);
        let (wait, copy) = early.map_or((0.0, 0.0), |h| {
            let wait = h.copy_started_us.map_or(0.0, |at| (at - h.started_us).as_ms());
            (wait.min(gap), h.copy_us.map_or(0.0, Micros::as_ms))
        });
        let copy = copy.min(gap - wait);
        Some(Stages {
            queue: (submitted - request.arrived_us).as_ms(),
            prefill: (first - submitted.max(request.arrived_us)).as_ms(),
            handoff_wait: wait,
            copy,
            first_decode: gap - wait - copy,
        })
    }

    pub const NAMES: [&str; 5] = ["router queue", "engine queue + prefill", "hand-off wait", "copy", "first decode"];

    pub fn parts(&self) -> [f64; 5] {
        [self.queue, self.prefill, self.handoff_wait, self.copy, self.first_decode]
    }
}

pub fn class_name(class: Class) -> &'static str {
    match class {
        Class::Short => "short",
        Class::Long => "long",
    }
}

/// The nearest-rank quantile of sorted values: the smallest one that at least a share `q` of them does not exceed.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

pub fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn quantile_is_the_nearest_rank() {
        let values = sorted([4.0, 1.0, 3.0, 2.0].into_iter());
        assert_eq!([0.0, 0.25, 0.5, 0.51, 0.95, 1.0].map(|q| quantile(&values, q).unwrap()), [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn one_long_gap_breaks_the_strict_rule_and_not_that_of_the_mean() {
        let mut request = fixture::small().requests.swap_remove(0);
        let arrived = request.arrived_us;
        request.objectives = dualpool_types::Objectives { ttft_us_max: Micros(1_000), itl_us_max: Micros(100) };
        let mut rules = |tokens: &[u64]| {
            request.token_us = tokens.iter().map(|&at| arrived + Micros(at)).collect();
            (within_objectives(&request), within_objectives_by_tpot(&request))
        };
        assert_eq!(rules(&[1_000, 1_100, 1_200]), (true, true));
        assert_eq!(rules(&[1_000, 1_150, 1_200]), (false, true), "150 and 50 are 100 in the mean");
        assert_eq!(rules(&[1_000, 1_150, 1_201]), (false, false));
        assert_eq!(rules(&[1_001, 1_002]), (false, false), "the first token is late");
        assert_eq!(rules(&[1_000]), (true, true), "one token has no gap");
        assert_eq!(rules(&[]), (false, false));
    }

    #[test]
    fn stages_add_up_to_the_second_token() {
        let artifacts = fixture::small();
        let mut copied = 0;
        for request in artifacts.requests.iter().filter(|r| r.token_us.len() > 1) {
            let stages = Stages::of(request).unwrap();
            let sum: f64 = stages.parts().iter().sum();
            assert!((sum - (request.token_us[1] - request.arrived_us).as_ms()).abs() < 1e-6);
            assert!((stages.queue + stages.prefill - ttft_ms(request).unwrap()).abs() < 1e-6);
            copied += usize::from(stages.copy > 0.0);
        }
        assert!(copied > 0, "the fixture has hand-offs");
    }
}
