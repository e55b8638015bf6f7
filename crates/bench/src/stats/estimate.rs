//! What one arm does differently from another, from one paired value per repetition.
//!
//! Requests that share a queue are not independent of each other; repetitions are, for each has requests and a stretch of time of its own.
//! So a repetition gives one value, and the interval is Student's t over repetitions.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// The mean of one value per repetition, and how far it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) mean: f64,
    /// Of the mean.
    pub(super) error: f64,
    student: StudentsT,
}

impl Estimate {
    /// None from fewer than two repetitions, which say nothing of how much repetitions differ.
    pub(super) fn of(values: &[f64]) -> Option<Estimate> {
        let repetitions = values.len();
        if repetitions < 2 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / repetitions as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (repetitions - 1) as f64;
        let student = StudentsT::new(0.0, 1.0, (repetitions - 1) as f64).ok()?;
        Some(Estimate { mean, error: (variance / repetitions as f64).sqrt(), student })
    }

    /// No difference, in so many repetitions that scatter by this standard deviation.
    pub(super) fn scattered(deviation: f64, repetitions: u32) -> Option<Estimate> {
        let student = StudentsT::new(0.0, 1.0, f64::from(repetitions) - 1.0).ok()?;
        Some(Estimate { mean: 0.0, error: deviation / f64::from(repetitions).sqrt(), student })
    }

    /// The interval that holds the truth with this confidence, such as 0.95.
    pub(super) fn interval(&self, confidence: f64) -> (f64, f64) {
        let reach = self.quantile(0.5 + confidence / 2.0) * self.error;
        (self.mean - reach, self.mean + reach)
    }

    /// How often a mean as far from 0 comes about where there is no difference.
    pub(super) fn p_value(&self) -> f64 {
        match (self.error > 0.0, self.mean == 0.0) {
            (true, _) => 2.0 * self.student.sf((self.mean / self.error).abs()),
            // Every repetition had the same value: of identical records.
            (false, true) => 1.0,
            (false, false) => 0.0,
        }
    }

    /// The smallest difference that as many repetitions, scattered as these, show at this level in four of five runs.
    pub(super) fn visible(&self, level: f64) -> f64 {
        const POWER: f64 = 0.8;
        (self.quantile(1.0 - level / 2.0) + self.quantile(POWER)) * self.error
    }

    fn quantile(&self, share: f64) -> f64 {
        self.student.inverse_cdf(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_table_of_student() {
        // n = 10, mean 0.1, standard deviation 0.2: t(9, 97.5 %) = 2.262157.
        let values: Vec<f64> = [-1.0, 1.0].iter().cycle().take(10).map(|sign| 0.1 + sign * 0.2 * (0.9f64).sqrt()).collect();
        let estimate = Estimate::of(&values).unwrap();
        let (low, high) = estimate.interval(0.95);
        let reach = 2.262_157 * 0.2 / 10f64.sqrt();
        assert!((low - (0.1 - reach)).abs() < 1e-6 && (high - (0.1 + reach)).abs() < 1e-6, "{low} {high}");
        // t = 1.5811, and P(|T9| > 1.5811) = 0.148.
        assert!((estimate.p_value() - 0.1483).abs() < 5e-4, "{}", estimate.p_value());
    }

    #[test]
    fn one_repetition_says_nothing_and_identical_ones_no_difference() {
        assert_eq!(Estimate::of(&[0.3]), None);
        assert_eq!(Estimate::of(&[0.0; 6]).unwrap().p_value(), 1.0);
        assert_eq!(Estimate::of(&[0.5; 6]).unwrap().p_value(), 0.0);
    }
}
