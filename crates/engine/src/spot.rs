//! Where an engine's KV lies.

use anyhow::{Context, bail, ensure};

use dualpool_cuda::{Driver, GpuUuid};
use dualpool_machine::{CoreSet, Device};

use crate::{VirtualEngineSettings, VirtualKv};

/// Where an engine's KV lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    Cores(CoreSet),
    Gpu(GpuUuid),
}

impl Spot {
    /// Fails for engines that have no memory, or one that lies nowhere in particular.
    pub fn of(device: &Device, settings: &VirtualEngineSettings) -> anyhow::Result<Spot> {
        match device {
            Device::Cores(set) => Ok(Spot::Cores(set.clone())),
            Device::Gpu(gpu) => Ok(Spot::Gpu(gpu.uuid.parse().with_context(|| format!("{gpu} has no UUID that CUDA knows"))?)),
            Device::Virtual(index) if settings.kv == VirtualKv::Cuda => Ok(Spot::Gpu(gpu_of_virtual(*index)?)),
            Device::Virtual(_) => bail!("{device} has no memory to copy from or to; use --device cpu or --device gpu"),
        }
    }

    /// Copies between memories of the same names cost the same.
    pub fn name(&self) -> String {
        match self {
            Spot::Cores(set) => set.memory(),
            Spot::Gpu(uuid) => uuid.to_string(),
        }
    }

    /// What copies bytes between this kind of memory.
    pub fn transport(&self) -> &'static str {
        match self {
            Spot::Cores(_) => "shm",
            Spot::Gpu(_) => "cuda",
        }
    }
}

/// The GPU of a virtual engine whose KV lies on one, by CUDA's own numbers; from the first one again when there are fewer.
pub fn gpu_of_virtual(index: u32) -> anyhow::Result<GpuUuid> {
    let devices = Driver::load().and_then(|driver| driver.devices()).context("virtual.kv = \"cuda\" needs a GPU")?;
    ensure!(!devices.is_empty(), "virtual.kv = \"cuda\" needs a GPU, and the driver shows none; use virtual.kv = \"shm\"");
    Ok(devices[index as usize % devices.len()].uuid)
}
