//! Brings up what serves requests: migrator, engines on their devices, controller.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::mpsc;

use crate::config::Settings;
use crate::controller::Controller;
use crate::core::{EngineId, MonotonicClock};
use crate::device::{Device, Placement};
use crate::engine::ENGINE_EVENTS_MAX;
use crate::engine::vllm::{self, EngineSpec, Pin};
use crate::harness::Progress;
use crate::migrate::{Fault, Migrator};

/// Starts one engine per placement, and a controller over them. Dropping the future ends what was started.
pub async fn start(settings: &Settings, placements: &[Placement], progress: Arc<dyn Progress>) -> anyhow::Result<Controller> {
    let clock = Arc::new(MonotonicClock::new());
    let (migrator, moves) = Migrator::start(&settings.migrate, clock.clone(), Fault::None)?;
    let specs: Vec<EngineSpec> = placements
        .iter()
        .enumerate()
        .map(|(i, placement)| EngineSpec {
            id: EngineId(i as u16),
            pin: pin(&placement.device),
            settings: settings.engine.clone(),
            control_socket: Some(migrator.socket_path().to_path_buf()),
        })
        .collect();
    let (events, inbox) = mpsc::channel(ENGINE_EVENTS_MAX);
    let told: vllm::Progress = Arc::new(move |engine, what| progress.step(&format!("{engine}: {what}")));
    let engines =
        vllm::start(&settings.engine.venv, migrator.run_dir(), specs, events, told).await.context("the engines did not start")?;
    Ok(Controller::start(engines.into(), inbox, Some((migrator, moves)), &settings.router, &settings.telemetry, clock))
}

fn pin(device: &Device) -> Pin {
    match device {
        Device::Cores(set) => Pin::Cores(set.compute.clone()),
        Device::Gpu(gpu) => Pin::Gpu { index: gpu.index, uuid: gpu.uuid.clone(), cores: Vec::new() },
        Device::Virtual(_) => unimplemented!(),
    }
}
