//! How many requests per second the fleet can take, so that `load` means the same on every machine.
//!
//! All requests of a drain arrive at once, and each engine is looked at until most of its own are over: neither the last few requests, which
//! have an engine for themselves, nor an engine that waits for another one make the rate smaller. It is that of engines which are kept full,
//! so that 70 and 90 % of it are 20 points apart.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Instant;

use dualpool_report::measure::is_done;
use dualpool_types::artifact::RunInfo;
use dualpool_types::records::RequestRecord;
use dualpool_types::{Arrangement, EngineId, Micros};
use dualpool_workload::WorkItem;

use super::budget::Budget;
use super::drive::{ArmRunner, DriveError, Work};

/// Drains per arm: how far they differ is how far the rate can be trusted.
pub(super) const DRAINS: u32 = 2;

/// The shares of the workload's requests that a drain has, by the time that there is: the more, the larger the batches, as in a queue that
/// grows. With a fixed number of repetitions, and under `--quick`.
const SHARES: RangeInclusive<f64> = 0.25..=1.0;
const FIXED_SHARE: f64 = 0.5;
const QUICK_SHARE: f64 = 0.125;

/// What all drains may take of the time that is left.
const TIME_SHARE: f64 = 0.06;

/// No further drain where one of all arms took more than this share of the time that is left.
const AGAIN_SHARE: f64 = 0.2;

/// An engine is full until this share of its requests is over.
const FULL_SHARE: f64 = 0.9;

/// Requests per second, and the least and the most that any drain came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Saturation {
    pub(super) rps: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Saturation {
    /// Requests per second completed when so many requests of one kind follow so many of the other, each at its own saturation.
    pub(super) fn of_all(parts: &[(u32, Saturation)]) -> Saturation {
        let requests: f64 = parts.iter().map(|&(requests, _)| f64::from(requests)).sum();
        let in_turn = |rate: fn(&Saturation) -> f64| {
            let seconds: f64 = parts.iter().map(|(requests, saturation)| f64::from(*requests) / rate(saturation)).sum();
            round(requests / seconds)
        };
        Saturation { rps: in_turn(|s| s.rps), low: in_turn(|s| s.low), high: in_turn(|s| s.high) }
    }

    pub(super) fn write(&self, run: &mut RunInfo) {
        run.saturation_rps = Some(self.rps);
        (run.saturation_low_rps, run.saturation_high_rps) = (Some(self.low), Some(self.high));
    }
}

/// What a drain has of so many requests, each of which takes the fleet so long: all drains of so many arms are to be affordable.
pub(super) fn drain_share(budget: Option<Budget>, quick: bool, arms: usize, requests: usize, request_s: f64) -> f64 {
    match budget {
        _ if quick => QUICK_SHARE,
        None => FIXED_SHARE,
        Some(budget) => {
            let all_s = requests as f64 * request_s * arms as f64 * f64::from(DRAINS);
            (budget.left().as_secs_f64() * TIME_SHARE / all_s.max(f64::MIN_POSITIVE)).clamp(*SHARES.start(), *SHARES.end())
        }
    }
}

/// The rate of the best of these arms with engines as they were started. Each drain has requests of its own, the same for all arms.
pub(super) async fn find(runner: &ArmRunner<'_>, arms: &[Arrangement], drains: &[Vec<WorkItem>]) -> Result<Saturation, DriveError> {
    let (mut rates, began) = (vec![Vec::new(); arms.len()], Instant::now());
    for (items, number) in drains.iter().zip(1..) {
        if number > 1 && runner.budget().is_some_and(|budget| began.elapsed() > budget.left().mul_f64(AGAIN_SHARE)) {
            runner.note("There is no time for a second drain, so the saturation is that of one. More time: --budget.".to_string());
            break;
        }
        for (arm, rates) in arms.iter().zip(&mut rates) {
            let what = format!("{} (drain {number})", arm.name);
            rates.extend(full_rate(&runner.run(&what, arm, 0, Work::open_loop(items)).await?.requests));
        }
    }
    let best = rates.iter().filter_map(|rates| of_drains(rates)).max_by(|a, b| a.rps.total_cmp(&b.rps));
    best.ok_or(DriveError::NoSaturation)
}

/// As many requests in each drain.
fn of_drains(rates: &[f64]) -> Option<Saturation> {
    let low = rates.iter().copied().reduce(f64::min)?;
    let high = rates.iter().copied().reduce(f64::max)?;
    let seconds: f64 = rates.iter().map(|rate| 1.0 / rate).sum();
    Some(Saturation { rps: round(rates.len() as f64 / seconds), low: round(low), high: round(high) })
}

/// Requests per second of the engines together, while they are full; none where no request was completed.
fn full_rate(requests: &[RequestRecord]) -> Option<f64> {
    let mut of_engine: BTreeMap<EngineId, Vec<&RequestRecord>> = BTreeMap::new();
    for request in requests.iter().filter(|request| is_done(request)) {
        if let Some(leg) = request.legs.last() {
            of_engine.entry(leg.engine).or_default().push(request);
        }
    }
    let (mut served, mut seconds) = (0.0, 0.0);
    for requests in of_engine.values_mut() {
        requests.sort_by_key(|request| request.ended_us);
        let over = (FULL_SHARE * requests.len() as f64).ceil() as usize;
        let until = requests[over - 1].ended_us;
        served += requests.iter().map(|request| share_done(request, until)).sum::<f64>();
        seconds += until.as_secs();
    }
    // As requests of the same kinds on each engine: one with longer prompts takes its time for all of them.
    (seconds > 0.0).then(|| served / seconds * of_engine.len() as f64)
}

/// Of a request's output, what was there by then.
fn share_done(request: &RequestRecord, by: Micros) -> f64 {
    if request.ended_us <= by {
        return 1.0;
    }
    let tokens = request.token_us.iter().filter(|&&at| at <= by).count();
    tokens as f64 / request.token_us.len().max(1) as f64
}

/// A rate to three digits after the point: what is offered is what the artifacts say, to the last bit. It is never 0: nothing would arrive.
pub(super) fn round(rate: f64) -> f64 {
    (rate * 1e3).round().max(1.0) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::stats::synthetic;
    use dualpool_types::records::Outcome;
    use dualpool_types::{Phase, RequestError};

    #[test]
    fn rates_are_rounded_and_never_nothing() {
        assert_eq!([round(3.50671), round(1e-9)], [3.507, 0.001]);
    }

    #[test]
    fn drains_are_as_large_as_time_allows() {
        // 100 requests of 0.1 s, by two arms in two drains each: 40 s for all of them.
        let share = |budget_s| drain_share(Some(Budget::begin(Duration::from_secs(budget_s))), false, 2, 100, 0.1);
        assert_eq!([share(10), share(10_000)], [0.25, 1.0]);
        assert!((share(333) - 0.5).abs() < 0.01, "{}", share(333));
        assert_eq!([drain_share(None, false, 2, 100, 0.1), drain_share(None, true, 2, 100, 0.1)], [0.5, 0.125]);
    }

    #[test]
    fn mixes_are_served_one_after_the_other() {
        let mix = |requests, rps| (requests, Saturation { rps, low: rps / 2.0, high: rps * 2.0 });
        assert_eq!(Saturation::of_all(&[mix(100, 12.345)]).rps, 12.345);
        // 10 s and 40 s for 300 requests.
        let both = Saturation::of_all(&[mix(100, 10.0), mix(200, 5.0)]);
        assert_eq!((both.rps, both.low, both.high), (6.0, 3.0, 12.0));
    }

    /// Requests that arrive at once and end at these seconds, each on this engine.
    fn drain(ends_s: &[(u16, f64)]) -> Vec<RequestRecord> {
        let mut requests = synthetic::arm("drain", 1, ends_s.len() as u32, 1.0);
        for (request, &(engine, end_s)) in requests.iter_mut().zip(ends_s) {
            request.arrived_us = Micros::ZERO;
            request.ended_us = Micros::from_secs(end_s);
            request.token_us = (1..=8).map(|token| Micros::from_secs(end_s * f64::from(token) / 8.0)).collect();
            request.legs[0].engine = EngineId(engine);
        }
        requests
    }

    #[test]
    fn the_tail_in_which_engines_run_empty_does_not_count() {
        // Ten requests a second on each engine; the last one of the first engine then runs alone for as long again.
        let steady = |engine: u16| (1..=10).map(move |i| (engine, f64::from(i) / 10.0));
        let mut ends: Vec<(u16, f64)> = steady(0).chain(steady(1)).collect();
        let full = full_rate(&drain(&ends)).unwrap();
        ends[9] = (0, 2.0);
        let with_tail = full_rate(&drain(&ends)).unwrap();
        assert!((20.0..22.0).contains(&full), "{full}");
        assert!((with_tail / full - 1.0).abs() < 0.05, "{with_tail} and {full}");
    }

    #[test]
    fn an_engine_that_waits_for_another_one_is_not_taken_for_slow() {
        // Twice the work on one engine: together as fast as two that share it evenly, and faster than the last end says.
        let uneven: Vec<(u16, f64)> =
            (1..=10).map(|i| (0, f64::from(i) / 10.0)).chain((1..=20).map(|i| (1, f64::from(i) / 10.0))).collect();
        let rate = full_rate(&drain(&uneven)).unwrap();
        assert!((20.0..22.0).contains(&rate), "{rate}; 15 by the last end");
    }

    #[test]
    fn only_what_was_completed_counts() {
        let mut requests = drain(&[(0, 1.0), (0, 1.0)]);
        assert_eq!(full_rate(&requests), Some(2.0));
        requests[1].outcome = Outcome::Failed { error: RequestError::Cancelled { phase: Phase::Decode } };
        assert_eq!(full_rate(&requests), Some(1.0));
        assert_eq!(full_rate(&[]), None);
    }

    #[test]
    fn drains_that_differ_are_an_interval_around_the_rate_of_both() {
        // 10 s and 5 s for as many requests.
        assert_eq!(of_drains(&[10.0, 20.0]), Some(Saturation { rps: 13.333, low: 10.0, high: 20.0 }));
        assert_eq!(of_drains(&[]), None);
    }
}
