//! The command line of dualpool: it embeds real vLLM engines, splits them into a prefill and a decode pool, moves KV blocks between them,
//! routes every request by live signals, and measures in paired runs whether that helped. What it does is in the crates under `crates/`.

#![warn(unreachable_pub)]

pub mod cli;
pub mod config;

#[cfg(feature = "extension-module")]
mod extension;
