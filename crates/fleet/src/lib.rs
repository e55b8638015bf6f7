//! Brings up what serves requests - the KV mover, the engines on their devices, the controller over them - and is what a benchmark, the
//! command line and tests hold of it.

pub mod admin;
pub mod controller;
mod copies;
pub mod program;
mod progress;
mod settings;
mod spec;
#[cfg(feature = "python")]
mod vllm;

use std::sync::Arc;

use anyhow::Context;

use dualpool_engine::virtual_engine::kv::KvPlace;
use dualpool_engine::virtual_engine::{VirtualFleet, start_with_memory};
use dualpool_engine::{VirtualKv, gpu_of_virtual};
use dualpool_kv::{KernelSettings, KvServer, Transport, Transports};
use dualpool_machine::Device;
use dualpool_machine::nvml::SamplerError;
use dualpool_model::VirtualSettings;
use dualpool_types::{Clock, Micros, MonotonicClock};

use controller::{Controller, GpuWatch};

pub use copies::{Links, links};
pub use progress::{Progress, Silent};
pub use settings::{ProfileKind, TelemetrySettings};
pub use spec::FleetSpec;

/// Starts one engine per placement, knowing what copies between them cost. Dropping the future ends what was started.
pub async fn start(spec: FleetSpec<'_>, progress: Arc<dyn Progress>) -> anyhow::Result<Controller> {
    let transport = Box::new(transports(&spec));
    start_over(transport, spec, progress).await
}

/// The same over a transport of the caller's making.
pub async fn start_over(
    transport: Box<dyn Transport>,
    spec: FleetSpec<'_>,
    progress: Arc<dyn Progress>,
) -> anyhow::Result<Controller> {
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let watch = watch_gpus(&spec, clock.clone());
    let controller = engines(transport, spec, progress, clock).await?;
    // Not before: while engines start the controller takes no samples, and those that are dropped would look like a fault.
    match watch {
        Some(Ok(watch)) => controller.watch_gpus(watch).await,
        // GPUs that cannot be watched can still serve.
        Some(Err(error)) => controller.note_gpus(format!("{error}; samples.jsonl has no samples of them.")).await,
        None => {}
    }
    Ok(controller)
}

/// The GPUs that engines are to have, sampled; none where no engine has one.
fn watch_gpus(spec: &FleetSpec<'_>, clock: Arc<dyn Clock>) -> Option<Result<GpuWatch, SamplerError>> {
    let uuid = |placement: &dualpool_machine::Placement| match &placement.device {
        Device::Gpu(gpu) => Some(Arc::from(gpu.uuid.as_str())),
        Device::Cores(_) | Device::Virtual(_) => None,
    };
    let uuids: Vec<Option<Arc<str>>> = spec.placements.iter().map(uuid).collect();
    if uuids.iter().all(Option::is_none) {
        return None;
    }
    let period = Micros(spec.telemetry.gpu_sample_ms * 1_000);
    Some(GpuWatch::start(None, uuids, period, clock))
}

async fn engines(
    transport: Box<dyn Transport>,
    spec: FleetSpec<'_>,
    progress: Arc<dyn Progress>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Controller> {
    let virtual_indices: Vec<u32> = spec.placements.iter().filter_map(|placement| placement.device.virtual_index()).collect();
    if virtual_indices.len() == spec.placements.len() {
        return virtual_engines(transport, spec, &virtual_indices, clock).await;
    }
    #[cfg(feature = "python")]
    return vllm::start(transport, spec, progress, clock).await;
    #[cfg(not(feature = "python"))]
    drop(progress);
    #[cfg(not(feature = "python"))]
    anyhow::bail!("this program was built without Python, so it has virtual engines only; use --device virtual, or `make build`")
}

async fn virtual_engines(
    transport: Box<dyn Transport>,
    spec: FleetSpec<'_>,
    indices: &[u32],
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Controller> {
    let engine = spec.engine;
    let defaults = VirtualSettings::default();
    let settings_of_engines = VirtualSettings {
        max_model_len: engine.max_model_len,
        max_num_batched_tokens: engine.max_num_batched_tokens,
        max_num_seqs: engine.max_num_seqs,
        block_size: if engine.block_size > 0 { engine.block_size } else { defaults.block_size },
        prefix_cache: spec.virtual_engines.prefix_cache,
        speed: spec.virtual_engines.speed,
        ..defaults
    };
    let places = match spec.virtual_engines.kv {
        VirtualKv::None => {
            let VirtualFleet { fleet, events, mover, moves, .. } =
                VirtualFleet::start(indices.len(), &settings_of_engines, clock.clone());
            let moves = Some((Box::new(mover) as _, moves));
            return Ok(Controller::start(fleet, events, moves, spec.router, spec.telemetry, clock));
        }
        VirtualKv::Shm => vec![KvPlace::Shm; indices.len()],
        VirtualKv::Cuda => gpu_places(indices)?,
    };
    let (kv_server, moves) = KvServer::start(spec.kv, clock.clone(), spec.links, transport)?;
    let started = start_with_memory(&places, kv_server.socket_path(), &settings_of_engines, clock.clone()).await;
    let (fleet, events) = started.context("the virtual engines did not start")?;
    Ok(Controller::start(fleet, events, Some((Box::new(kv_server), moves)), spec.router, spec.telemetry, clock))
}

fn gpu_places(indices: &[u32]) -> anyhow::Result<Vec<KvPlace>> {
    // It holds the GPU memory, in processes of their own.
    let program = program::again()?;
    let place = |&index: &u32| Ok(KvPlace::Gpu { uuid: gpu_of_virtual(index)?, program: program.clone() });
    indices.iter().map(place).collect()
}

/// What moves KV between engines, whatever memory they have.
fn transports(spec: &FleetSpec<'_>) -> Transports {
    Transports::calibrated(KernelSettings::new(spec.kv, &spec.engine.venv), &spec.links)
}
