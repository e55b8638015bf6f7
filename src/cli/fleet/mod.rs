//! Brings up what serves requests: the migrator, the engines on their devices, the controller over them.

mod copies;
#[cfg(feature = "python")]
mod vllm;

use std::sync::Arc;

use anyhow::Context;

use super::program;
use crate::config::{Settings, VirtualKv};
use crate::controller::{Controller, GpuWatch};
use crate::core::{Clock, Micros, MonotonicClock};
use crate::device::nvml::SamplerError;
use crate::device::{Device, Placement};
use crate::engine::virtual_engine::kv::KvPlace;
use crate::engine::virtual_engine::{VirtualFleet, VirtualSettings, start_with_memory};
use crate::harness::Progress;
use crate::harness::migration_cost::gpu_of_virtual;
use crate::migrate::{EngineLinks, Fault, KernelSettings, Migrator, Transports};

pub use copies::{Links, links};

/// Starts one engine per placement, knowing what copies between them cost. Dropping the future ends what was started.
pub async fn start(
    settings: &Settings,
    placements: &[Placement],
    links: EngineLinks,
    progress: Arc<dyn Progress>,
) -> anyhow::Result<Controller> {
    start_engines(settings, placements, links, progress, Fault::None).await
}

/// The same with a fault in every KV copy: what tests use to see that a fault shows.
pub async fn start_with_fault(
    settings: &Settings,
    placements: &[Placement],
    progress: Arc<dyn Progress>,
    fault: Fault,
) -> anyhow::Result<Controller> {
    start_engines(settings, placements, EngineLinks::default(), progress, fault).await
}

async fn start_engines(
    settings: &Settings,
    placements: &[Placement],
    links: EngineLinks,
    progress: Arc<dyn Progress>,
    fault: Fault,
) -> anyhow::Result<Controller> {
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let controller = engines(settings, placements, links, progress, clock.clone(), fault).await?;
    // Not before: while engines start nobody takes samples, and those that are dropped would look like a fault.
    match watch_gpus(settings, placements, clock) {
        Some(Ok(watch)) => controller.watch_gpus(watch).await,
        // GPUs that cannot be watched can still serve.
        Some(Err(error)) => controller.note_gpus(format!("{error}; samples.jsonl has no samples of them.")).await,
        None => {}
    }
    Ok(controller)
}

/// The GPUs that engines are to have, sampled; none where no engine has one.
fn watch_gpus(settings: &Settings, placements: &[Placement], clock: Arc<dyn Clock>) -> Option<Result<GpuWatch, SamplerError>> {
    let uuid = |placement: &Placement| match &placement.device {
        Device::Gpu(gpu) => Some(Arc::from(gpu.uuid.as_str())),
        Device::Cores(_) | Device::Virtual(_) => None,
    };
    let uuids: Vec<Option<Arc<str>>> = placements.iter().map(uuid).collect();
    if uuids.iter().all(Option::is_none) {
        return None;
    }
    let period = Micros(settings.telemetry.gpu_sample_ms * 1_000);
    Some(GpuWatch::start(None, uuids, period, clock))
}

async fn engines(
    settings: &Settings,
    placements: &[Placement],
    links: EngineLinks,
    progress: Arc<dyn Progress>,
    clock: Arc<dyn Clock>,
    fault: Fault,
) -> anyhow::Result<Controller> {
    let virtual_indices: Vec<u32> = placements.iter().filter_map(|placement| placement.device.virtual_index()).collect();
    if virtual_indices.len() == placements.len() {
        return virtual_engines(settings, &virtual_indices, links, clock, fault).await;
    }
    #[cfg(feature = "python")]
    return vllm::start(settings, placements, links, progress, clock, fault).await;
    #[cfg(not(feature = "python"))]
    drop(progress);
    #[cfg(not(feature = "python"))]
    anyhow::bail!("this program was built without Python, so it has virtual engines only; use --device virtual, or `make build`")
}

async fn virtual_engines(
    settings: &Settings,
    indices: &[u32],
    links: EngineLinks,
    clock: Arc<dyn Clock>,
    fault: Fault,
) -> anyhow::Result<Controller> {
    let engine = &settings.engine;
    let defaults = VirtualSettings::default();
    let settings_of_engines = VirtualSettings {
        max_model_len: engine.max_model_len,
        max_num_batched_tokens: engine.max_num_batched_tokens,
        max_num_seqs: engine.max_num_seqs,
        block_size: if engine.block_size > 0 { engine.block_size } else { defaults.block_size },
        prefix_cache: settings.virtual_engines.prefix_cache,
        speed: settings.virtual_engines.speed,
        ..defaults
    };
    let places = match settings.virtual_engines.kv {
        VirtualKv::None => {
            let VirtualFleet { fleet, events, mover, moves, .. } =
                VirtualFleet::start(indices.len(), &settings_of_engines, clock.clone());
            mover.inject(fault);
            let moves = Some((Box::new(mover) as _, moves));
            return Ok(Controller::start(fleet, events, moves, &settings.router, &settings.telemetry, clock));
        }
        VirtualKv::Shm => vec![KvPlace::Shm; indices.len()],
        VirtualKv::Cuda => gpu_places(indices)?,
    };
    let transports = Box::new(transports(settings, &links));
    let (migrator, moves) = Migrator::start_with(&settings.migrate, clock.clone(), fault, links, transports)?;
    let started = start_with_memory(&places, migrator.socket_path(), &settings_of_engines, clock.clone()).await;
    let (fleet, events) = started.context("the virtual engines did not start")?;
    Ok(Controller::start(fleet, events, Some((Box::new(migrator), moves)), &settings.router, &settings.telemetry, clock))
}

fn gpu_places(indices: &[u32]) -> anyhow::Result<Vec<KvPlace>> {
    // It holds the GPU memory, in processes of their own.
    let program = program::again()?;
    let place = |&index: &u32| Ok(KvPlace::Gpu { uuid: gpu_of_virtual(index)?, program: program.clone() });
    indices.iter().map(place).collect()
}

/// What moves KV between engines, whatever memory they have.
fn transports(settings: &Settings, links: &EngineLinks) -> Transports {
    Transports::calibrated(KernelSettings::new(settings), links)
}
