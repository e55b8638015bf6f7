//! Brings up what serves requests: the migrator, the engines on their devices, the controller over them.

mod copies;
#[cfg(feature = "python")]
mod vllm;

use std::sync::Arc;

use crate::config::Settings;
use crate::controller::Controller;
use crate::core::{Clock, MonotonicClock};
use crate::device::{Device, Placement};
use crate::engine::virtual_engine::{VirtualFleet, VirtualSettings};
use crate::harness::Progress;
use crate::migrate::{EngineLinks, Fault};

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
    if placements.iter().all(|placement| matches!(placement.device, Device::Virtual(_))) {
        return Ok(virtual_engines(settings, placements.len(), clock));
    }
    #[cfg(feature = "python")]
    return vllm::start(settings, placements, links, progress, clock, fault).await;
    #[cfg(not(feature = "python"))]
    drop((links, progress, fault));
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
