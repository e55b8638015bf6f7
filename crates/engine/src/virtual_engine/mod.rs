//! Engines without weights: a timing model behind the `Engine` trait, for tests of everything above it and for policies tried out in
//! seconds. They schedule as vLLM does (chunked prefill, running legs first, first come first served, KV blocks as the bound), hold and
//! fetch KV, and give tokens that depend on every token before them, so that lost or mixed-up KV shows in the output.
//!
//! `Scheduler` is the model itself, without time or threads; `VirtualEngine` runs it in a tokio task at a chosen speed. Its KV is a part
//! of the model, or bytes in memory of its own that the real KV server copies (`kv`).

mod engine;
mod engines;
mod inbox;
pub mod kv;
mod mover;

pub use engine::VirtualEngine;
pub use engines::{VirtualEngines, start_with_memory};
pub use mover::{KvLink, VirtualMover};
