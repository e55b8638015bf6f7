//! What can be wrong with the settings. Every error names the key, the value, what is allowed, and where the value came from.

use std::path::PathBuf;

use thiserror::Error;

use dualpool_types::UserError;
use dualpool_types::settings::listed;

use super::Origin;

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read the settings file `{}`", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("`{}` is not valid TOML: {why}", path.display())]
    Syntax { path: PathBuf, why: String },
    #[error("{}", listed(.0))]
    Wrong(Vec<Problem>),
}

impl UserError for ConfigError {
    fn hint(&self) -> &'static str {
        "`dualpool config` shows every setting and where it came from"
    }
}

/// One setting that is wrong.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Problem {
    #[error("unknown setting `{key}` (from {origin}){}", suggestion(did_you_mean))]
    UnknownKey { key: String, origin: Origin, did_you_mean: Option<String> },
    #[error("unknown setting `{old}` (from {origin}); it is called `{new}` now")]
    Renamed { old: String, origin: Origin, new: &'static str },
    #[error("unknown setting `{key}` (from {origin}); the table `{old}` is called `{new}` now")]
    RenamedTable { key: String, origin: Origin, old: &'static str, new: &'static str },
    #[error("`{key}` is {value} (from {origin}); allowed: {allowed}")]
    Value { key: String, value: String, origin: Origin, allowed: String },
}

fn suggestion(key: &Option<String>) -> String {
    match key {
        Some(key) => format!("; did you mean `{key}`?"),
        None => "; `dualpool config` lists all settings".into(),
    }
}
