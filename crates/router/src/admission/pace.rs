//! How fast the queue moves, measured where it moves: whatever it waits for - the window, places, an engine that is slow today - is in it.

use dualpool_types::{Micros, Time};

/// What one request that leaves the queue counts for.
const WEIGHT: f64 = 1.0 / 16.0;

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the last one was let in, or the queue began.
    since: Option<Time>,
    us: f64,
    tokens: f64,
}

impl Pace {
    /// The queue was empty until now.
    pub(super) fn begins(&mut self, now: Time) {
        self.since = Some(now);
    }

    /// The first in the queue was let in or, being late, was turned away.
    pub(super) fn moved(&mut self, now: Time, prompt_tokens: u32) {
        let took = self.since.replace(now).map_or(Micros::ZERO, |since| now.since(since));
        self.us += WEIGHT * (took.0 as f64 - self.us);
        self.tokens += WEIGHT * (f64::from(prompt_tokens) - self.tokens);
    }

    /// Microseconds in which the queue gets shorter by one prompt token; none while it never has.
    pub(super) fn us_per_token(&self) -> Option<f64> {
        (self.tokens > 0.0).then(|| self.us / self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_tokens_and_not_of_requests() {
        let mut pace = Pace::default();
        assert_eq!(pace.us_per_token(), None);
        pace.begins(Time(1_000));
        let mut now = Time(1_000);
        for i in 0..200 {
            let tokens = if i % 2 == 0 { 10 } else { 1_000 };
            now = now.plus(Micros(tokens * 7));
            pace.moved(now, tokens as u32);
        }
        assert!((pace.us_per_token().unwrap() - 7.0).abs() < 1e-9, "{pace:?}");
    }
}
