//! Brings up what serves requests: the migrator, the engines on their devices, the controller over them.

#[cfg(feature = "python")]
mod vllm;

use std::sync::Arc;

use crate::config::Settings;
use crate::controller::{Controller, GpuWatch};
use crate::core::{Clock, Micros, MonotonicClock};
use crate::device::nvml::SamplerError;
use crate::device::{Device, Placement};
use crate::engine::virtual_engine::{VirtualFleet, VirtualSettings};
use crate::harness::Progress;
use crate::migrate::Fault;

/// Starts one engine per placement. Dropping the future ends what was started.
pub async fn start(settings: &Settings, placements: &[Placement], progress: Arc<dyn Progress>) -> anyhow::Result<Controller> {
    start_with_fault(settings, placements, progress, Fault::None).await
}

/// The same with a fault in every KV copy: what tests use to see that a fault shows.
pub async fn start_with_fault(
    settings: &Settings,
    placements: &[Placement],
    progress: Arc<dyn Progress>,
    fault: Fault,
) -> anyhow::Result<Controller> {
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let watch = watch_gpus(settings, placements, clock.clone());
    let controller = engines(settings, placements, progress, clock, fault).await?;
    match watch {
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
    progress: Arc<dyn Progress>,
    clock: Arc<dyn Clock>,
    fault: Fault,
) -> anyhow::Result<Controller> {
    if placements.iter().all(|placement| matches!(placement.device, Device::Virtual(_))) {
        return Ok(virtual_engines(settings, placements.len(), clock));
    }
    #[cfg(feature = "python")]
    return vllm::start(settings, placements, progress, clock, fault).await;
    #[cfg(not(feature = "python"))]
    drop((progress, fault));
    #[cfg(not(feature = "python"))]
    anyhow::bail!("this program was built without Python, so it has virtual engines only; use --device virtual, or `make build`")
}

fn virtual_engines(settings: &Settings, engines: usize, clock: Arc<dyn Clock>) -> Controller {
    let engine = &settings.engine;
    let defaults = VirtualSettings::default();
    let settings_of_engines = VirtualSettings {
        max_model_len: engine.max_model_len,
        max_num_batched_tokens: engine.max_num_batched_tokens,
        max_num_seqs: engine.max_num_seqs,
        block_size: if engine.block_size > 0 { engine.block_size } else { defaults.block_size },
        ..defaults
    };
    let VirtualFleet { fleet, events, mover, moves, .. } = VirtualFleet::start(engines, &settings_of_engines, clock.clone());
    Controller::start(fleet, events, Some((Box::new(mover), moves)), &settings.router, &settings.telemetry, clock)
}
