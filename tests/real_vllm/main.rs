//! Real vLLM engines on CPU cores, with tiny models. Engines want the cores to themselves: run with `--test-threads=1`, and one engine or
//! pair of engines at a time.
#![cfg(feature = "python")]

mod engine;
mod serving;
#[path = "../support/mod.rs"]
mod support;
