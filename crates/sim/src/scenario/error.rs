//! What is wrong with a scenario: which one, where, and the mend.

use std::fmt::Display;
use std::path::PathBuf;

use thiserror::Error;

use dualpool_types::{ArrangementError, UserError};

use super::{NAMES, Scenario};
use crate::FaultError;

#[derive(Debug, Error)]
pub enum ScenarioError {
    #[error("there is no scenario `{name}`; built in are {}, and any other is a TOML file", NAMES.join(", "))]
    Unknown { name: String },
    #[error("cannot read the scenario {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("scenario {scenario}, line {line}: {why}")]
    Syntax { scenario: String, line: usize, why: String },
    #[error("scenario {scenario}: {key} is {value}; it must be {expected}")]
    Value { scenario: String, key: String, value: String, expected: String },
    #[error("scenario {scenario}: {source}")]
    Arrangement { scenario: String, source: ArrangementError },
    #[error("scenario {scenario}: {source}")]
    Faults { scenario: String, source: FaultError },
}

impl UserError for ScenarioError {
    fn hint(&self) -> &'static str {
        "docs/simulate.md says what a scenario holds"
    }
}

impl ScenarioError {
    /// An unknown key is among these; the parser lists the known ones, which is the mend.
    pub(super) fn syntax(scenario: &str, text: &str, error: &toml::de::Error) -> ScenarioError {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        ScenarioError::Syntax { scenario: scenario.to_string(), line, why: error.message().to_string() }
    }
}

/// Refuses a value of this scenario for which `fine` does not hold.
pub(super) fn require(
    scenario: &Scenario,
    key: &str,
    value: impl Display,
    fine: bool,
    expected: impl Display,
) -> Result<(), ScenarioError> {
    if fine {
        return Ok(());
    }
    let (scenario, key) = (scenario.name.clone(), key.to_string());
    Err(ScenarioError::Value { scenario, key, value: value.to_string(), expected: expected.to_string() })
}
