//! Lengths of prompts and answers. Real ones are spread over orders of magnitude with a long tail on the right, which is what a
//! log-normal distribution looks like; the bounds keep a context from being exceeded.

use rand_distr::{Distribution, StandardNormal};

use dualpool_types::Rng;

use super::parameter::{ParameterError, require};

/// The widest spread: one standard deviation is then a factor of 20.
const SPREAD_MAX: f64 = 3.0;

/// Log-normal lengths in tokens, drawn within bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths {
    pub median: u32,
    /// Standard deviation of the logarithm; with 0 every length is the median.
    pub spread: f64,
    /// What is drawn below is set to this; at least 1.
    pub min: u32,
    /// What is drawn above is set to this.
    pub max: u32,
}

impl Lengths {
    pub(super) fn check(&self, key: &'static str) -> Result<(), ParameterError> {
        let Lengths { median, spread, min, max } = *self;
        let value = format!("{median} (spread {spread}, from {min} to {max})");
        let fine = 1 <= min && min <= median && median <= max && (0.0..=SPREAD_MAX).contains(&spread);
        require(key, value, fine, format!("1 <= min <= median <= max, with a spread from 0 to {SPREAD_MAX}"))
    }

    pub(super) fn draw(&self, rng: &mut Rng) -> u32 {
        let deviation: f64 = StandardNormal.sample(rng);
        let length = f64::from(self.median) * (self.spread * deviation).exp();
        // A cast saturates, so that the far tail ends at the bound like all else above it.
        (length.round() as u32).clamp(self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::seeded;

    #[test]
    fn half_of_the_lengths_are_below_the_median_and_all_within_bounds() {
        let lengths = Lengths { median: 100, spread: 0.7, min: 20, max: 400 };
        let rng = &mut seeded(1, "lengths");
        let drawn: Vec<u32> = (0..4000).map(|_| lengths.draw(rng)).collect();
        assert!(drawn.iter().all(|n| (20..=400).contains(n)));
        let below = drawn.iter().filter(|&&n| n < 100).count();
        assert!((1800..2200).contains(&below), "{below} of 4000 are below the median");
        assert!(drawn.contains(&20) && drawn.contains(&400), "the bounds are reached");
    }

    #[test]
    fn without_spread_every_length_is_the_median() {
        let lengths = Lengths { median: 64, spread: 0.0, min: 1, max: 1000 };
        let rng = &mut seeded(1, "lengths");
        assert!((0..100).all(|_| lengths.draw(rng) == 64));
    }

    #[test]
    fn bounds_out_of_order_are_refused() {
        let fine = Lengths { median: 64, spread: 0.5, min: 1, max: 128 };
        assert_eq!(fine.check("chat_prompt"), Ok(()));
        for bad in [
            Lengths { min: 0, ..fine },
            Lengths { min: 65, ..fine },
            Lengths { max: 63, ..fine },
            Lengths { spread: f64::NAN, ..fine },
        ] {
            let message = bad.check("chat_prompt").unwrap_err().to_string();
            assert!(message.starts_with("chat_prompt is 64 (spread "), "{message}");
        }
    }
}
