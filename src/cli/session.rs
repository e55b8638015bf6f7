//! Engines that are there for as long as something is done with them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use dualpool_bench::{Cancel, Settings};
use dualpool_fleet::Progress;
use dualpool_fleet::controller::Controller;
use dualpool_kv::EngineLinks;
use dualpool_machine::{Device, Placement};

use super::interrupt;
use super::progress::Bars;
use super::terminal::Terminal;

/// How long tasks that wait for nothing may keep the program from ending.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// Starts the engines, does this with them, and ends them whatever came of it. None when the user stopped it before they were up.
pub fn with_fleet<T>(
    settings: &Settings,
    placements: &[Placement],
    links: EngineLinks,
    terminal: &Terminal,
    work: impl AsyncFnOnce(&Controller, &dyn Progress, &Cancel) -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the tokio runtime")?;
    let done = runtime.block_on(async {
        let cancel = Cancel::new();
        interrupt::watch(cancel.clone(), terminal.clone()).context("cannot listen for Ctrl-C")?;
        let bars = Arc::new(Bars::new(terminal));
        notes(placements).iter().for_each(|note| bars.note(note));
        bars.phase("engine start", 0);
        let controller = tokio::select! {
            controller = dualpool_fleet::start(settings.fleet(placements, links), bars.clone()) => controller?,
            // Dropping the start ends the engines that were on their way.
            () = cancel.cancelled() => return Ok(None),
        };
        let done = work(&controller, bars.as_ref(), &cancel).await;
        bars.phase("engine stop", 0);
        controller.shutdown().await;
        bars.finish();
        done.map(Some)
    });
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    done
}

pub fn notes(placements: &[Placement]) -> Vec<String> {
    let shared = placements.iter().any(|p| matches!(&p.device, Device::Cores(set) if set.shares_cores));
    let note = "there are fewer cores than engines: engines share a core's hardware threads and slow each other down";
    shared.then(|| note.to_string()).into_iter().collect()
}

pub fn gpu_names(placements: &[Placement]) -> Vec<String> {
    let name = |placement: &Placement| match &placement.device {
        Device::Gpu(gpu) => Some(format!("{gpu} {}, {}", gpu.name, gpu.memory)),
        Device::Cores(_) | Device::Virtual(_) => None,
    };
    placements.iter().filter_map(name).collect()
}
