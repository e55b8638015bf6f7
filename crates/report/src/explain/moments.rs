//! Mean and spread of numbers that are seen once.

/// By Welford's recurrence, which does not lose the spread in the squares of large numbers (Technometrics 4, 1962).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1;
        let off = value - self.mean;
        self.mean += off / self.count as f64;
        self.squares += off * (value - self.mean);
    }

    pub(super) fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    /// The standard deviation.
    pub(super) fn spread(&self) -> Option<f64> {
        (self.count > 1).then(|| (self.squares / (self.count - 1) as f64).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_spread_are_those_of_the_numbers() {
        let mut moments = Moments::default();
        assert_eq!((moments.mean(), moments.spread()), (None, None));
        for value in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            moments.add(1e9 + value);
        }
        assert_eq!(moments.mean(), Some(1e9 + 5.0));
        assert!((moments.spread().unwrap() - (32.0f64 / 7.0).sqrt()).abs() < 1e-6);
    }
}
