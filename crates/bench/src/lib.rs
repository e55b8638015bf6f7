//! Benchmark targets: paired runs of arms over the same engines and requests, and what can be said of their difference.
//!
//! `run` is the whole course of a run, the same for all targets; `dual_pool` and `dynamic_router` say what is particular to them. Each step
//! has a module of its own: `saturation` finds the rate to offer, `search` tunes the arms that are to be tuned, `pair` runs all arms in
//! turn through `drive`, `folder` keeps what they recorded, `stats` turns the records into the figures and verdicts of `summary.json`,
//! and `expectations` holds them against what was accepted before.
//!
//! `migration_cost` measures what copies of KV cost, without engines.

pub mod arms;
mod cancel;
mod columns;
mod drive;
pub mod dual_pool;
pub mod dynamic_router;
pub mod engine_timing;
pub mod environment;
pub mod expectations;
mod faults;
mod fit;
mod flags;
pub mod folder;
mod identical;
pub mod migration_cost;
mod pair;
mod phases;
pub mod profile;
mod run;
mod samples;
mod saturation;
pub mod search;
mod settings;
pub mod sim_fidelity;
pub mod stats;
pub mod target;
pub mod topology_probe;

pub use cancel::Cancel;
pub use flags::FlagValue;
pub use run::{Outcome, Prepared};
pub use settings::{
    ARMS, ARMS_ON_REQUEST, DynamicRouterSettings, ROUTER_ARM, RunSettings, Settings, SettingsError, WorkloadKind, renamed,
};
