//! vLLM engines, with a KV server between them.

use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::mpsc;

use dualpool_cuda::{Driver, GpuUuid};
use dualpool_engine::ENGINE_EVENTS_MAX;
use dualpool_engine::vllm::{self, EngineSpec, Pin};
use dualpool_kv::{KvServer, Transport};
use dualpool_machine::{Affinity, Device, Placement, topology};
use dualpool_types::{Clock, EngineId};

use crate::{Fleet, FleetSpec, Progress};

pub(crate) async fn start(
    transport: Box<dyn Transport>,
    spec: FleetSpec<'_>,
    progress: Arc<dyn Progress>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Fleet> {
    let (kv_server, moves) = KvServer::start(spec.kv, clock.clone(), spec.links, transport)?;
    let cannot_move = spec.placements.iter().find_map(|placement| unreachable_memory(&placement.device));
    if let Some(why) = &cannot_move {
        progress.note(&format!("KV does not move between these engines, and arms that move it are left out: {why}"));
    }
    // Engines run without it, too, wherever the kernel puts them.
    let machine =
        topology::of_machine(None).inspect_err(|error| tracing::warn!("engines are not pinned next to their GPUs: {error}")).ok();
    let engine_spec = |(id, placement): (EngineId, &Placement)| {
        let affinity = Affinity::of(&placement.device, machine.as_ref());
        Ok(EngineSpec {
            id,
            memory_node: affinity.memory_node,
            pin: pin(&placement.device, affinity.cores)?,
            settings: spec.engine.clone(),
            step_trace: spec.engine.step_trace_of(id),
            control_socket: cannot_move.is_none().then(|| kv_server.socket_path().to_path_buf()),
        })
    };
    let specs = (0..).map(EngineId).zip(spec.placements).map(engine_spec).collect::<anyhow::Result<Vec<_>>>()?;
    let (events, inbox) = mpsc::channel(ENGINE_EVENTS_MAX);
    let told: vllm::Progress = Arc::new(move |engine, what| progress.step(&format!("{engine}: {what}")));
    let engines = vllm::start(&spec.engine.venv, kv_server.run_dir(), specs, events, told).await;
    let engines = engines.context("the engines did not start")?;
    Ok(Fleet::of(engines.into(), inbox, Some((Box::new(kv_server), moves)), spec.router, spec.telemetry, clock))
}

/// Why this program cannot copy from and to an engine's memory on this device; an engine that lent it all the same would not start.
fn unreachable_memory(device: &Device) -> Option<String> {
    let Device::Gpu(gpu) = device else { return None };
    let uuid: GpuUuid = match gpu.uuid.parse() {
        Ok(uuid) => uuid,
        Err(error) => return Some(error.to_string()),
    };
    Driver::load().and_then(|driver| driver.device(uuid)).err().map(|error| error.to_string())
}

fn pin(device: &Device, cores: Vec<u32>) -> anyhow::Result<Pin> {
    Ok(match device {
        Device::Cores(_) => Pin::Cores(cores),
        Device::Gpu(gpu) => Pin::Gpu { index: gpu.index, uuid: gpu.uuid.clone(), cores },
        Device::Virtual(_) => bail!("{device} stands beside real devices; a fleet is all virtual or not at all"),
    })
}
