//! dualpool: embeds real vLLM engines, splits them into a prefill and a decode pool, moves KV blocks between them, routes every
//! request by live signals, and measures in paired runs whether that helped.
//!
//! The modules are listed lowest first. A module imports only from modules above its own line (`tests/tidy.rs` checks it).

pub mod core;

pub mod config;

pub mod workload;

pub mod telemetry;

pub mod report;

pub mod device;

pub mod router;

pub mod migrate;

pub mod engine;

pub mod sim;

pub mod controller;

pub mod harness;

pub mod cli;

#[cfg(feature = "extension-module")]
mod extension;
