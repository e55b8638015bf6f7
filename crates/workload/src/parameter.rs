//! What is wrong with a parameter of a workload.

use std::fmt::Display;
use std::ops::RangeBounds;

use thiserror::Error;

use dualpool_types::UserError;

/// The parameter, its value, and what it must be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{key} is {value}; it must be {expected}")]
pub struct ParameterError {
    pub key: &'static str,
    pub value: String,
    pub expected: String,
}

impl UserError for ParameterError {
    fn hint(&self) -> &'static str {
        "`dualpool config` shows every setting and where it came from"
    }
}

/// Refuses a parameter for which `fine` does not hold.
pub(super) fn require(key: &'static str, value: impl Display, fine: bool, expected: impl Display) -> Result<(), ParameterError> {
    if fine { Ok(()) } else { Err(ParameterError { key, value: value.to_string(), expected: expected.to_string() }) }
}

/// Refuses a number outside of its range, and what is no number.
pub(super) fn within(key: &'static str, value: f64, range: impl RangeBounds<f64>, expected: &str) -> Result<(), ParameterError> {
    require(key, value, value.is_finite() && range.contains(&value), expected)
}

/// Refuses more requests than their places can be numbered, and none at all.
pub(super) fn countable(key: &'static str, requests: u64) -> Result<(), ParameterError> {
    require(key, requests, (1..=u64::from(u32::MAX)).contains(&requests), format!("from 1 to {}", u32::MAX))
}

/// Refuses a longest request that the model's context does not hold.
pub(super) fn fits(key: &'static str, tokens: u64, max_model_len: u32) -> Result<(), ParameterError> {
    let expected = format!("at most {max_model_len} tokens, which is what the model's context holds; make it shorter");
    require(key, tokens, tokens <= u64::from(max_model_len), expected)
}
