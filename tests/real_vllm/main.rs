//! Real vLLM engines on CPU cores, with tiny models. One engine, or one pair of them, runs at a time.
#![cfg(feature = "python")]

mod engine;
mod serving;
#[path = "../support/mod.rs"]
mod support;

use tokio::sync::{Mutex, MutexGuard};

/// Engines want the cores to themselves: a test keeps this for as long as it runs.
async fn one_at_a_time() -> MutexGuard<'static, ()> {
    static CORES: Mutex<()> = Mutex::const_new(());
    CORES.lock().await
}
