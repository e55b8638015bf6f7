//! The transport between engines whose KV memory lies on GPUs. Their memory is imported (CUDA IPC), and copies go in one of four classes:
//!
//! | class | how | when |
//! |---|---|---|
//! | `direct` | the driver's copies, many per call | byte ranges are long, or there are no kernels |
//! | `staged` | gather kernel, one copy over the link, scatter kernel | many short byte ranges |
//! | `peer_store` | a kernel that stores straight into the other memory | few bytes; within one GPU always |
//! | `through_host` | pinned host memory | the GPUs cannot access each other, or have too many peers already |
//!
//! `choose` picks one per plan. A copy that fails is tried once more in the next plainer class; then the engine computes the prompt. A class
//! whose memory cannot be had (staging memory on a GPU that is full) is not tried again.

mod checksum;
mod choose;
mod classes;
mod region;
mod route;
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use thiserror::Error;

use dualpool_cuda::kernels::{KernelError, Kernels, nvrtc};
use dualpool_cuda::{Context, CudaError, Driver, GpuUuid, IpcHandle};
use dualpool_types::{Bytes, EngineId};

use super::copy_plan::{ByteRange, total_bytes};
use super::cost::{CopyClass, LinkCost};
use super::transport::{Memory, Stop, Transport, TransportError};
use crate::{COPY_GRID_BLOCKS, KvSettings};
use checksum::Reader;
use choose::{Basis, choose, lower};
use region::Region;
use route::{Reach, Route};

/// One GPU's kernels, for all routes from and to it. Only the mover's thread takes the lock.
type SharedKernels = Arc<Mutex<Kernels>>;

#[derive(Debug, Error)]
pub(crate) enum CopyError {
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Memory that the class needs once, before its first copy. The next copy would ask for it in vain, too.
    #[error("what the class needs cannot be had, so it is left out from now on: {0}")]
    SetUp(CudaError),
    #[error("the class needs kernels, and there are none")]
    NoKernels,
    #[error("byte {end} of {engine} is beyond its {bytes} bytes")]
    OutOfBounds { engine: EngineId, end: u64, bytes: u64 },
    #[error("{engine} is not mapped")]
    NotMapped { engine: EngineId },
    #[error("stopped")]
    Stopped,
}

impl CopyError {
    /// Whether another class could do better. Not after a stop, and not once the GPU answers every call with this error.
    fn is_worth_a_retry(&self) -> bool {
        match self {
            CopyError::Cuda(error) | CopyError::SetUp(error) | CopyError::Kernel(KernelError::Cuda(error)) => !error.is_sticky(),
            CopyError::Kernel(_) | CopyError::NoKernels => true,
            CopyError::OutOfBounds { .. } | CopyError::NotMapped { .. } | CopyError::Stopped => false,
        }
    }
}

/// How the copy kernels are come by and launched.
#[derive(Clone, Debug)]
pub struct KernelSettings {
    /// Where an NVRTC may lie, for a program that was built without the kernels.
    pub nvrtc_folders: Vec<PathBuf>,
    pub grid_blocks_max: u32,
}

impl Default for KernelSettings {
    fn default() -> Self {
        KernelSettings { nvrtc_folders: Vec::new(), grid_blocks_max: COPY_GRID_BLOCKS }
    }
}

impl KernelSettings {
    /// `venv` is an environment in which an NVRTC may lie.
    pub fn new(settings: &KvSettings, venv: &Path) -> KernelSettings {
        KernelSettings { nvrtc_folders: nvrtc::folders(Some(venv)), grid_blocks_max: settings.copy_grid_blocks_max }
    }
}

struct Gpu {
    context: Context,
    /// None where they could not be had, which is said once.
    kernels: Option<SharedKernels>,
    reader: Option<Reader>,
}

/// The driver is loaded with the first memory that is mapped, so a machine without one can have this transport, too.
#[derive(Default)]
pub struct CudaTransport {
    settings: KernelSettings,
    // Fields are dropped in this order: what uses memory before the memory.
    routes: BTreeMap<(EngineId, EngineId), Route>,
    regions: BTreeMap<EngineId, Region>,
    gpus: BTreeMap<GpuUuid, Gpu>,
    costs: BTreeMap<(EngineId, EngineId), LinkCost>,
    /// Said once per direction and class, and once per two GPUs.
    told: BTreeSet<(EngineId, EngineId, CopyClass)>,
    told_host_only: BTreeSet<(GpuUuid, GpuUuid)>,
    /// Said once per class, whatever the direction: one calibration lacks it in all of them.
    told_not_calibrated: BTreeSet<CopyClass>,
}

impl CudaTransport {
    pub fn new(settings: KernelSettings) -> CudaTransport {
        CudaTransport { settings, ..CudaTransport::default() }
    }

    /// What copies in this direction cost by class, from a calibration; decides the class from now on, if it knows every class there is.
    pub fn set_cost(&mut self, from: EngineId, to: EngineId, cost: LinkCost) {
        self.costs.insert((from, to), cost);
    }

    fn import(&mut self, engine: EngineId, segments: Vec<IpcHandle>) -> Result<Region, CudaError> {
        let driver = Driver::load()?;
        let Some(uuid) = segments.first().map(|segment| segment.gpu) else {
            // `KvMap` refuses memory of no pieces before.
            return Err(CudaError::OutOfBounds { what: "GPU memory", offset: 0, length: 1, size: Bytes(0) });
        };
        let gpu = match self.gpus.entry(uuid) {
            std::collections::btree_map::Entry::Occupied(gpu) => gpu.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let context = Context::retain(&driver.device(uuid)?)?;
                let kernels = kernels(&context, &self.settings);
                place.insert(Gpu { context, kernels, reader: None })
            }
        };
        Region::import(engine, &gpu.context, segments)
    }

    fn region(&self, engine: EngineId) -> Result<&Region, TransportError> {
        self.regions.get(&engine).ok_or(TransportError::NotMapped { engine })
    }

    /// Made on first use; the first copy or question pays for its streams.
    fn route(&mut self, from: EngineId, to: EngineId) -> Result<&Route, TransportError> {
        if !self.routes.contains_key(&(from, to)) {
            let (source, target) = (self.region(from)?, self.region(to)?);
            let kernels = |region: &Region| self.gpus.get(&region.gpu()).and_then(|gpu| gpu.kernels.clone());
            let kernels = kernels(source).zip(kernels(target));
            let route = Route::new(source, target, kernels).map_err(|error| failed(from, to, error.into()))?;
            let gpus = (source.gpu().min(target.gpu()), source.gpu().max(target.gpu()));
            if route.reach() == Reach::HostOnly && self.told_host_only.insert(gpus) {
                tracing::warn!(
                    "{} and {} have no access to each other's memory, or no more of it: KV goes through host memory, slower",
                    gpus.0,
                    gpus.1
                );
            }
            self.routes.insert((from, to), route);
        }
        self.routes.get(&(from, to)).ok_or(TransportError::NotMapped { engine: to })
    }

    fn copy_once(
        &mut self,
        class: CopyClass,
        plan: &[ByteRange],
        ends: (EngineId, EngineId),
        stop: &Stop,
    ) -> Result<(), CopyError> {
        let source = self.regions.get(&ends.0).ok_or(CopyError::NotMapped { engine: ends.0 })?;
        let target = self.regions.get(&ends.1).ok_or(CopyError::NotMapped { engine: ends.1 })?;
        let route = self.routes.get_mut(&ends).ok_or(CopyError::NotMapped { engine: ends.1 })?;
        route.copy(class, plan, source, target, stop)
    }

    fn say_class(&mut self, class: CopyClass, basis: Basis, (from, to): (EngineId, EngineId), bytes: Bytes, ranges: u32) {
        if let Basis::NotCalibrated(missing) = basis
            && self.told_not_calibrated.insert(missing)
        {
            tracing::warn!(
                "the calibration of copies from {from} to {to} has no figures for class {missing}, so rules of thumb decide; \
                 `dualpool calibrate` measures all classes that there are now"
            );
        }
        if self.told.insert((from, to, class)) {
            tracing::info!(
                "KV from {from} to {to} is copied in class {class} ({basis}; this plan: {bytes} in {ranges} byte ranges)"
            );
        }
    }
}

impl Transport for CudaTransport {
    fn map(&mut self, engine: EngineId, memory: Memory) -> Result<(), TransportError> {
        let failed = |why: String| TransportError::Map { engine, why };
        let Memory::Cuda { segments } = memory else { return Err(failed("it is no GPU memory".into())) };
        let region = self.import(engine, segments).map_err(|error| failed(explained(&error)))?;
        self.regions.insert(engine, region);
        Ok(())
    }

    fn unmap(&mut self, engine: EngineId) {
        self.routes.retain(|(from, to), _| *from != engine && *to != engine);
        self.regions.remove(&engine);
    }

    fn copy(&mut self, plan: &[ByteRange], from: EngineId, to: EngineId, stop: &Stop) -> Result<(), TransportError> {
        let route = self.route(from, to)?;
        let (classes, same_gpu) = (route.classes(), route.reach() == Reach::SameGpu);
        let (bytes, ranges) = (Bytes(total_bytes(plan)), u32::try_from(plan.len()).unwrap_or(u32::MAX));
        let (class, basis) = choose(&classes, same_gpu, bytes, ranges, self.costs.get(&(from, to)));
        self.say_class(class, basis, (from, to), bytes, ranges);
        let Err(error) = self.copy_once(class, plan, (from, to), stop) else { return Ok(()) };
        match lower(class, &classes) {
            Some(plainer) if error.is_worth_a_retry() => {
                tracing::warn!("KV from {from} to {to} in class {class}: {error}; trying once more in class {plainer}");
                let retried = self.copy_once(plainer, plan, (from, to), stop);
                retried.map_err(|error| failed(from, to, error))
            }
            _ => Err(failed(from, to, error)),
        }
    }

    fn classes(&mut self, from: EngineId, to: EngineId) -> Result<Vec<CopyClass>, TransportError> {
        self.route(from, to).map(|route| route.classes())
    }

    fn copy_as(
        &mut self,
        class: CopyClass,
        plan: &[ByteRange],
        from: EngineId,
        to: EngineId,
        stop: &Stop,
    ) -> Result<(), TransportError> {
        if !self.classes(from, to)?.contains(&class) {
            return Err(TransportError::NoSuchClass { class, from, to });
        }
        self.copy_once(class, plan, (from, to), stop).map_err(|error| failed(from, to, error))
    }

    fn checksum(
        &mut self,
        engine: EngineId,
        ranges: &mut dyn Iterator<Item = (u64, u64)>,
        stop: &Stop,
    ) -> Result<u64, TransportError> {
        let region = self.regions.get(&engine).ok_or(TransportError::NotMapped { engine })?;
        let gpu = self.gpus.get_mut(&region.gpu()).ok_or(TransportError::NotMapped { engine })?;
        let unreadable = |error: CopyError| match error {
            CopyError::Stopped => TransportError::Stopped,
            CopyError::OutOfBounds { engine, end, bytes } => TransportError::OutOfBounds { engine, end, bytes },
            other => TransportError::Unreadable { engine, why: other.to_string() },
        };
        let reader = match &mut gpu.reader {
            Some(reader) => reader,
            none => none.insert(Reader::new(&gpu.context).map_err(|error| unreadable(error.into()))?),
        };
        reader.checksum(region, ranges, stop).map_err(unreadable)
    }
}

/// The kernels of a GPU; without them the classes that need them are left out.
fn kernels(context: &Context, settings: &KernelSettings) -> Option<SharedKernels> {
    match Kernels::load(context, &settings.nvrtc_folders, settings.grid_blocks_max) {
        Ok(kernels) => Some(Arc::new(Mutex::new(kernels))),
        Err(error) => {
            tracing::info!("KV is copied without kernels: {error}");
            None
        }
    }
}

fn failed(from: EngineId, to: EngineId, error: CopyError) -> TransportError {
    match error {
        CopyError::Stopped => TransportError::Stopped,
        CopyError::NotMapped { engine } => TransportError::NotMapped { engine },
        CopyError::OutOfBounds { engine, end, bytes } => TransportError::OutOfBounds { engine, end, bytes },
        other => TransportError::Failed { from, to, why: other.to_string() },
    }
}

/// With what else may be the cause of an import that the driver refuses.
fn explained(error: &CudaError) -> String {
    match error {
        CudaError::Failed { operation: "cuIpcOpenMemHandle", .. } => {
            format!("{error}; engine and dualpool must run in the same PID and IPC namespaces, and on the same driver")
        }
        other => other.to_string(),
    }
}
