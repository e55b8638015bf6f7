//! What one way to copy KV between two engines costs.

/// One way to copy between two engines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CopyLine {
    pub fixed_us: f64,
    pub us_per_token: f64,
}

impl CopyLine {
    pub fn at(&self, tokens: f64) -> f64 {
        self.fixed_us + self.us_per_token * tokens
    }

    pub fn is_sound(&self) -> bool {
        [self.fixed_us, self.us_per_token].iter().all(|us| us.is_finite() && *us >= 0.0)
    }
}
