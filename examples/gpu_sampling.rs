//! What sampling the GPUs costs: this process does nothing else, so its CPU time is the sampler's. `docs/performance.md` has a figure.
//!
//!     cargo run --release --example gpu_sampling -- [SECONDS] [NVML_LIBRARY]
//!
//! Without a library it samples this machine's own GPUs. With the stand-in driver, which answers at once, it measures what is dualpool's:
//!
//!     cargo build --release -p fake-nvml
//!     FAKE_NVML="{\"gpus\": [$(printf '{},%.0s' 1 2 3 4 5 6 7){}]}" \
//!         cargo run --release --example gpu_sampling -- 20 target/release/libfake_nvml.so

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use dualpool_machine::nvml::{Sampler, Which};
use dualpool_types::{Micros, MonotonicClock};

const PERIOD: Micros = Micros(100_000);

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let seconds: u64 = args.next().map_or(Ok(20), |text| text.parse()).context("SECONDS is no whole number")?;
    let library = args.next();
    let (rounds, readings) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counted = (rounds.clone(), readings.clone());
    let sink = move |round: dualpool_machine::nvml::Round| {
        counted.0.fetch_add(1, Ordering::Relaxed);
        counted.1.fetch_add(round.readings.len() as u64, Ordering::Relaxed);
    };
    let library = library.as_deref().map(AsRef::as_ref);
    let sampler = Sampler::start(library, &Which::All, PERIOD, Arc::new(MonotonicClock::new()), sink)?;
    // Loading the library is no part of sampling.
    let (begun, cpu_before) = (Instant::now(), cpu()?);
    std::thread::sleep(Duration::from_secs(seconds));
    let (took, cpu) = (begun.elapsed(), cpu()? - cpu_before);
    drop(sampler);
    let (rounds, readings) = (rounds.load(Ordering::Relaxed), readings.load(Ordering::Relaxed));
    let share = cpu.as_secs_f64() / took.as_secs_f64();
    println!(
        "{rounds} rounds, {:.0} GPUs each, in {:.1} s: {:.2} ms of CPU time per round, {:.3} % of one core",
        readings as f64 / rounds.max(1) as f64,
        took.as_secs_f64(),
        cpu.as_secs_f64() * 1e3 / rounds.max(1) as f64,
        share * 100.0,
    );
    Ok(())
}

/// CPU time of this process so far, user and system.
fn cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.max(0) as u64))
}
