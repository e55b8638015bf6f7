//! Whether an arm takes less than it is offered: its queues rise while a repetition goes on, and its figures depend on how long that is.

use dualpool_report::REPETITIONS_MIN;
use dualpool_report::measure::ttft_ms;
use dualpool_types::records::{EngineSample, RequestRecord};
use dualpool_types::{Class, Micros};

use super::estimate::Estimate;

/// What rises by less than this share from the first half of a repetition to the second is no overload.
const RISE_MIN: f64 = 0.25;

/// How often an arm may be called overloaded where its queues do not rise.
const ERROR: f64 = 0.01;

/// One arm's repetition.
pub(super) struct Course<'a> {
    pub(super) requests: Vec<&'a RequestRecord>,
    pub(super) samples: Vec<&'a EngineSample>,
}

/// Whether TTFT or backlog rise in the course of the repetitions. None where there are too few of them to say.
pub(super) fn is_overloaded(repetitions: &[Course<'_>]) -> Option<bool> {
    let judged = |rise: fn(&Course<'_>) -> Option<f64>| {
        let rises: Vec<f64> = repetitions.iter().filter_map(rise).collect();
        let estimate = Estimate::of(&rises).filter(|_| rises.len() >= REPETITIONS_MIN as usize)?;
        Some(estimate.mean > (1.0 + RISE_MIN).ln() && estimate.p_value() < ERROR)
    };
    [judged(ttft_rise), judged(backlog_rise)].into_iter().flatten().reduce(|one, other| one || other)
}

/// The logarithm of the mean TTFT of short prompts that arrived in the second half, over that of the first.
fn ttft_rise(course: &Course<'_>) -> Option<f64> {
    let (from, to) = span(course)?;
    let short = course.requests.iter().filter(|request| request.class == Class::Short);
    rise(short.filter_map(|request| Some((request.arrived_us, ttft_ms(request)?))), from, to)
}

/// The same of the requests that wait and run on all engines together.
fn backlog_rise(course: &Course<'_>) -> Option<f64> {
    let (from, to) = span(course)?;
    rise(course.samples.iter().map(|sample| (sample.at_us, f64::from(sample.waiting + sample.running))), from, to)
}

/// From the first arrival to the last one.
fn span(course: &Course<'_>) -> Option<(Micros, Micros)> {
    let arrivals = || course.requests.iter().map(|request| request.arrived_us);
    Some((arrivals().min()?, arrivals().max()?))
}

fn rise(values: impl Iterator<Item = (Micros, f64)>, from: Micros, to: Micros) -> Option<f64> {
    let middle = from + Micros((to - from).0 / 2);
    let (early, late): (Vec<_>, Vec<_>) = values.filter(|(at, _)| (from..=to).contains(at)).partition(|&(at, _)| at <= middle);
    Some((mean(&late)? / mean(&early)?).ln()).filter(|rise| rise.is_finite())
}

fn mean(values: &[(Micros, f64)]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().map(|(_, value)| value).sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::synthetic::{self, by_repetition};

    fn judged(requests: &[RequestRecord]) -> Option<bool> {
        let courses: Vec<Course<'_>> =
            by_repetition(requests).into_iter().map(|requests| Course { requests, samples: Vec::new() }).collect();
        is_overloaded(&courses)
    }

    #[test]
    fn queues_that_rise_are_told_from_queues_that_come_and_go() {
        // The queue of `synthetic` takes twice what it is offered when everything takes two fifths of the time, and two thirds of it otherwise.
        let wrong = (0..50).filter(|&seed| judged(&synthetic::queue("a", 8, 36, 0.4, 0.05, seed)) == Some(true)).count();
        assert!(wrong <= 2, "{wrong} of 50 arms that keep up are called overloaded");
        let right = (0..20).filter(|&seed| judged(&synthetic::queue("a", 8, 36, 1.0, 0.05, seed)) == Some(true)).count();
        assert!(right >= 18, "{right} of 20 overloaded arms are found");
        assert_eq!(judged(&synthetic::queue("a", 3, 36, 1.0, 0.05, 1)), None, "too few repetitions");
    }
}
