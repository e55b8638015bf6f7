//! Benchmark targets: paired runs of arms over the same engines and requests, and what can be said of their difference.
//!
//! `dual_pool` is the whole course of a run; each step of it has a module of its own: `saturation` finds the rate to offer, `search`
//! tunes the arms that are to be tuned, `pair` runs all arms in turn through `drive`, `folder` keeps what they recorded, and `stats`
//! turns the records into the figures and verdicts of `summary.json`.
//!
//! `migration_cost` measures what copies of KV cost, without engines.

pub mod arms;
mod cancel;
mod columns;
mod drive;
pub mod dual_pool;
pub mod engine_timing;
pub mod environment;
mod fit;
pub mod folder;
mod identical;
pub mod migration_cost;
mod pair;
mod phases;
mod progress;
mod samples;
mod saturation;
pub mod search;
pub mod sim_fidelity;
pub mod stats;
pub mod target;
pub mod topology_probe;

pub use cancel::Cancel;
pub use dual_pool::Outcome;
pub use progress::{Progress, Silent};
