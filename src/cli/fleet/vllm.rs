//! vLLM engines, with a migrator between them.

use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::mpsc;

use crate::config::Settings;
use crate::controller::Controller;
use crate::core::{Clock, EngineId};
use crate::device::{Device, Placement, cores_near};
use crate::engine::ENGINE_EVENTS_MAX;
use crate::engine::vllm::{self, EngineSpec, Pin};
use crate::harness::Progress;
use crate::migrate::{EngineLinks, Fault, Migrator};

pub async fn start(
    settings: &Settings,
    placements: &[Placement],
    links: EngineLinks,
    progress: Arc<dyn Progress>,
    clock: Arc<dyn Clock>,
    fault: Fault,
) -> anyhow::Result<Controller> {
    let (migrator, moves) = Migrator::start_calibrated(&settings.migrate, clock.clone(), fault, links)?;
    let spec = |(id, placement): (EngineId, &Placement)| {
        Ok(EngineSpec {
            id,
            pin: pin(&placement.device)?,
            settings: settings.engine.clone(),
            // Only the KV of engines on CPU cores lies in memory that the mover can map.
            control_socket: matches!(placement.device, Device::Cores(_)).then(|| migrator.socket_path().to_path_buf()),
        })
    };
    let specs = (0..).map(EngineId).zip(placements).map(spec).collect::<anyhow::Result<Vec<_>>>()?;
    let (events, inbox) = mpsc::channel(ENGINE_EVENTS_MAX);
    let told: vllm::Progress = Arc::new(move |engine, what| progress.step(&format!("{engine}: {what}")));
    let engines = vllm::start(&settings.engine.venv, migrator.run_dir(), specs, events, told).await;
    let engines = engines.context("the engines did not start")?;
    Ok(Controller::start(engines.into(), inbox, Some((Box::new(migrator), moves)), &settings.router, &settings.telemetry, clock))
}

fn pin(device: &Device) -> anyhow::Result<Pin> {
    Ok(match device {
        Device::Cores(set) => Pin::Cores(set.compute.clone()),
        Device::Gpu(gpu) => Pin::Gpu { index: gpu.index, uuid: gpu.uuid.clone(), cores: cores_near(&gpu.pci_bus_id) },
        Device::Virtual(_) => bail!("{device} stands beside real devices; a fleet is all virtual or not at all"),
    })
}
