//! vLLM engines, with a migrator between them.

use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::mpsc;

use crate::config::Settings;
use crate::controller::Controller;
use crate::core::{Clock, EngineId};
use crate::device::{Affinity, Device, Placement, topology};
use crate::engine::ENGINE_EVENTS_MAX;
use crate::engine::vllm::{self, EngineSpec, Pin};
use crate::harness::Progress;
use crate::migrate::{Fault, Migrator};

pub async fn start(
    settings: &Settings,
    placements: &[Placement],
    progress: Arc<dyn Progress>,
    clock: Arc<dyn Clock>,
    fault: Fault,
) -> anyhow::Result<Controller> {
    let (migrator, moves) = Migrator::start(&settings.migrate, clock.clone(), fault)?;
    // Engines run without it, too, wherever the kernel puts them.
    let machine =
        topology::of_machine(None).inspect_err(|error| tracing::warn!("engines are not pinned next to their GPUs: {error}")).ok();
    let spec = |(id, placement): (EngineId, &Placement)| {
        let affinity = Affinity::of(&placement.device, machine.as_ref());
        Ok(EngineSpec {
            id,
            memory_node: affinity.memory_node,
            pin: pin(&placement.device, affinity.cores)?,
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

fn pin(device: &Device, cores: Vec<u32>) -> anyhow::Result<Pin> {
    Ok(match device {
        Device::Cores(_) => Pin::Cores(cores),
        Device::Gpu(gpu) => Pin::Gpu { index: gpu.index, uuid: gpu.uuid.clone(), cores },
        Device::Virtual(_) => bail!("{device} stands beside real devices; a fleet is all virtual or not at all"),
    })
}
