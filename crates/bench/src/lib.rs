//! Benchmark targets: paired runs of arms over the same engines and requests, and what can be said of their difference.
//!
//! `target` says what a target is, and `targets` holds those that there are. `run` is the whole course of those that compare arms; each of
//! them says what is particular to it. Each step has a module of its own: `saturation` finds the rate to offer, `search` tunes the arms
//! that are to be tuned, `pair` runs all arms in turn through `drive`, `folder` keeps what they recorded, `stats` turns the records into the
//! figures and verdicts of `summary.json`, and `expectations` holds them against what was accepted before.

pub mod arms;
mod budget;
mod cancel;
mod columns;
mod cut;
mod disturbance;
mod drive;
pub mod environment;
pub mod expectations;
mod faults;
mod fit;
pub mod flags;
pub mod folder;
mod identical;
mod idle;
mod noise;
mod pair;
mod parting;
mod phases;
pub mod plan;
pub mod profile;
mod resume;
mod run;
mod samples;
mod saturation;
#[cfg(test)]
mod schemas;
pub mod search;
mod settings;
pub mod stats;
pub mod target;
pub mod targets;
mod traffic;

pub use cancel::Cancel;
pub use flags::FlagValue;
pub use resume::{Begin, ResumeError};
pub use run::{Outcome, Paired};
pub use settings::{DynamicRouterSettings, RunSettings, Settings, SettingsError, WorkloadKind, renamed, renamed_table};
