//! How long the traffic of a repetition or of a trial runs: before its requests count, while they arrive, and until the last of them has
//! ended.

use dualpool_router::CostModel;
use dualpool_types::Micros;
use dualpool_workload::WorkItem;

/// Nearer to saturation than this, queues are not told from queues that grow without end.
const LOAD_MAX: f64 = 0.9;

/// How many requests decode beside one another when it is worked out what one takes.
const BATCH: f64 = 6.0;

/// The last request to end may be a long one: it takes so many times what one does on average.
const LAST: f64 = 2.0;

/// Requests that keep arriving at one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Traffic {
    /// Requests per second.
    rate: f64,
    /// A request, when a few others are on its engine.
    took_s: f64,
    /// A queue's memory: what happened longer ago no longer matters.
    settling_s: f64,
    /// Whether any stretch of it is like any other, so that it can begin before the requests that count.
    steady: bool,
}

impl Traffic {
    /// Of requests that take so long when a few others are on their engine. The nearer to saturation, the longer a queue's memory.
    pub(super) fn new(rate: f64, load: f64, took: Micros, steady: bool) -> Traffic {
        let took_s = took.as_secs();
        Traffic { rate, took_s, settling_s: took_s / (1.0 - load.clamp(0.0, LOAD_MAX)), steady }
    }

    /// What runs before so many requests that count.
    pub(super) fn lead_in_s(&self, requests: u32) -> f64 {
        if self.steady { self.settling_s.min(self.span_s(requests)) } else { 0.0 }
    }

    /// From the first arrival to the end of the last one of so many requests that count.
    pub(super) fn run_s(&self, requests: u32) -> f64 {
        self.lead_in_s(requests) + self.span_s(requests) + LAST * self.took_s
    }

    fn span_s(&self, requests: u32) -> f64 {
        f64::from(requests) / self.rate
    }
}

/// What one of these requests takes of an engine, on average.
pub(super) fn work_us(items: &[WorkItem], costs: &CostModel) -> f64 {
    let of = |item: &WorkItem| {
        item.prompt.len() as f64 * costs.prefill_us + f64::from(item.max_tokens) * (costs.decode_us + costs.step_us / BATCH)
    };
    items.iter().map(of).sum::<f64>() / items.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_to_saturation_the_longer_the_lead_in_and_never_longer_than_what_counts() {
        let lead_in_s = |load, requests| Traffic::new(10.0, load, Micros::from_secs(1.0), true).lead_in_s(requests);
        assert_eq!([lead_in_s(0.0, 100), lead_in_s(0.5, 100), lead_in_s(0.5, 10)], [1.0, 2.0, 1.0]);
        assert_eq!(lead_in_s(2.0, 1000), lead_in_s(LOAD_MAX, 1000));
    }

    #[test]
    fn a_course_of_its_own_has_no_lead_in() {
        let traffic = |steady| Traffic::new(10.0, 0.5, Micros::from_secs(1.0), steady);
        assert_eq!((traffic(false).lead_in_s(100), traffic(false).run_s(100)), (0.0, 12.0));
        assert_eq!(traffic(true).run_s(100), 14.0);
    }
}
