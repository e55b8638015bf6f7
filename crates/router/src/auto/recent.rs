//! The requests let in in the last while, as far as a forecast needs them: when it was, how long each is, what it asks for. Older ones count
//! less, by a time constant, and in the end not at all.

use std::collections::VecDeque;

use dualpool_types::{Micros, Objectives, Request, RequestId, Time};

/// Requests remembered, at most. Under a high rate the window is shorter than its time constant, and still holds enough to judge by.
pub(super) const RECENT_MAX: usize = 256;

/// What came longer ago than this many time constants (and counts for 5 %) is forgotten.
const TIME_CONSTANTS_MAX: u64 = 3;

/// How far one answer moves the share of its limit that answers are taken to have.
const LEARNING_RATE: f64 = 0.05;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seen {
    id: RequestId,
    pub at: Time,
    pub prompt_tokens: u32,
    /// Prompt tokens that an engine had in its cache.
    pub cached_tokens: u32,
    pub max_tokens: u32,
    /// Output tokens it made; none while it makes them.
    made: Option<u32>,
    pub objectives: Objectives,
}

#[derive(Debug)]
pub(super) struct Recent {
    window: Micros,
    requests: VecDeque<Seen>,
    /// Share of its output limit that an answer makes, on average.
    answer_share: f64,
}

impl Recent {
    pub(super) fn new(window: Micros) -> Recent {
        Recent { window, requests: VecDeque::with_capacity(RECENT_MAX), answer_share: 1.0 }
    }

    pub(super) fn arrived(&mut self, at: Time, request: &Request) {
        if self.requests.len() == RECENT_MAX {
            self.requests.pop_front();
        }
        self.requests.push_back(Seen {
            id: request.id,
            at,
            prompt_tokens: request.prompt_tokens(),
            cached_tokens: 0,
            max_tokens: request.max_tokens,
            made: None,
            objectives: request.objectives,
        });
    }

    /// An engine had this much of the prompt.
    pub(super) fn cached(&mut self, request: RequestId, tokens: u32) {
        if let Some(seen) = self.find(request) {
            seen.cached_tokens = tokens.min(seen.prompt_tokens);
        }
    }

    /// The request's answer is complete.
    pub(super) fn answered(&mut self, request: RequestId, tokens: u32) {
        let Some(seen) = self.find(request) else { return };
        seen.made = Some(tokens);
        let share = f64::from(tokens) / f64::from(seen.max_tokens.max(1));
        self.answer_share += LEARNING_RATE * (share.clamp(0.0, 1.0) - self.answer_share);
    }

    fn find(&mut self, request: RequestId) -> Option<&mut Seen> {
        // Most words are of requests that came lately.
        self.requests.iter_mut().rev().find(|seen| seen.id == request)
    }

    /// Output tokens the request made, or is taken to make.
    pub(super) fn outputs(&self, seen: &Seen) -> u32 {
        seen.made.unwrap_or_else(|| (f64::from(seen.max_tokens) * self.answer_share).round() as u32).max(1)
    }

    /// How much a request counts at this time: 1 when it has just come.
    pub(super) fn weight(&self, seen: &Seen, now: Time) -> f64 {
        (-(now.since(seen.at).0 as f64) / self.window.0.max(1) as f64).exp()
    }

    pub(super) fn forget_old(&mut self, now: Time) {
        let age_max = Micros(self.window.0.saturating_mul(TIME_CONSTANTS_MAX));
        while self.requests.front().is_some_and(|seen| now.since(seen.at) > age_max) {
            self.requests.pop_front();
        }
    }

    /// In the order they came.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Seen> {
        self.requests.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::{Class, Priority, Sampling};

    fn request(id: u64, max_tokens: u32) -> Request {
        Request {
            id: RequestId(id),
            prompt: vec![7; 100].into(),
            max_tokens,
            ignore_eos: false,
            sampling: Sampling::default(),
            class: Class::Short,
            priority: Priority::Normal,
            objectives: Objectives { ttft_us_max: Micros(500_000), itl_us_max: Micros(200_000) },
        }
    }

    #[test]
    fn what_is_remembered_has_a_bound_in_number_and_in_age() {
        let mut recent = Recent::new(Micros(1_000_000));
        for id in 0..1_000 {
            recent.arrived(Time(id), &request(id, 10));
        }
        assert_eq!(recent.iter().len(), RECENT_MAX);
        assert_eq!(recent.iter().next().map(|seen| seen.id), Some(RequestId(1_000 - RECENT_MAX as u64)));
        recent.forget_old(Time(2_900_000));
        assert_eq!(recent.iter().len(), RECENT_MAX);
        recent.forget_old(Time(3_100_000));
        assert_eq!(recent.iter().len(), 0);
    }

    #[test]
    fn a_request_counts_less_as_time_passes() {
        let mut recent = Recent::new(Micros(1_000_000));
        recent.arrived(Time(0), &request(0, 10));
        let seen = *recent.iter().next().unwrap();
        assert_eq!(recent.weight(&seen, Time(0)), 1.0);
        assert!((recent.weight(&seen, Time(1_000_000)) - (-1.0f64).exp()).abs() < 1e-9);
    }

    #[test]
    fn answers_that_end_early_teach_how_long_the_others_will_be() {
        let mut recent = Recent::new(Micros(1_000_000));
        for id in 0..200 {
            recent.arrived(Time(id), &request(id, 100));
            recent.answered(RequestId(id), 25);
        }
        recent.arrived(Time(200), &request(200, 400));
        recent.cached(RequestId(200), 1_000);
        let last = *recent.iter().last().unwrap();
        assert_eq!(last.cached_tokens, 100, "no more than there is");
        assert!((95..110).contains(&recent.outputs(&last)), "{}", recent.outputs(&last));
        assert_eq!(recent.outputs(recent.iter().next().unwrap()), 25);
    }
}
