//! One transport for all kinds of memory: each engine's memory goes to the transport for its kind.

use std::collections::BTreeMap;

use dualpool_types::EngineId;

use super::calibration::EngineLinks;
use super::copy_plan::ByteRange;
use super::cost::CopyClass;
use super::cuda::{CudaTransport, KernelSettings};
use super::shm::ShmTransport;
use super::transport::{Memory, Stop, Transport, TransportError};

#[derive(Default)]
pub struct Transports {
    shm: ShmTransport,
    cuda: CudaTransport,
    kinds: BTreeMap<EngineId, Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Shm,
    Cuda,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Shm => "shm",
            Kind::Cuda => "cuda",
        }
    }
}

impl Transports {
    pub fn new(kernels: KernelSettings) -> Transports {
        Transports { cuda: CudaTransport::new(kernels), ..Transports::default() }
    }

    /// The same, choosing the class of every copy by what copies cost between these engines.
    pub fn calibrated(kernels: KernelSettings, links: &EngineLinks) -> Transports {
        let mut transports = Transports::new(kernels);
        for ((from, to), cost) in links.iter() {
            transports.cuda.set_cost(from, to, cost.clone());
        }
        transports
    }

    fn of(&mut self, kind: Kind) -> &mut dyn Transport {
        match kind {
            Kind::Shm => &mut self.shm,
            Kind::Cuda => &mut self.cuda,
        }
    }

    fn kind(&self, engine: EngineId) -> Result<Kind, TransportError> {
        self.kinds.get(&engine).copied().ok_or(TransportError::NotMapped { engine })
    }

    fn between(&self, from: EngineId, to: EngineId) -> Result<Kind, TransportError> {
        let (source, target) = (self.kind(from)?, self.kind(to)?);
        if source == target {
            return Ok(source);
        }
        Err(TransportError::Kinds { from, to, from_kind: source.name(), to_kind: target.name() })
    }
}

impl Transport for Transports {
    fn map(&mut self, engine: EngineId, memory: Memory) -> Result<(), TransportError> {
        let kind = match memory {
            Memory::Shm { .. } => Kind::Shm,
            Memory::Cuda { .. } => Kind::Cuda,
        };
        self.of(kind).map(engine, memory)?;
        self.kinds.insert(engine, kind);
        Ok(())
    }

    fn unmap(&mut self, engine: EngineId) {
        if let Some(kind) = self.kinds.remove(&engine) {
            self.of(kind).unmap(engine);
        }
    }

    fn copy(&mut self, plan: &[ByteRange], from: EngineId, to: EngineId, stop: &Stop) -> Result<(), TransportError> {
        let kind = self.between(from, to)?;
        self.of(kind).copy(plan, from, to, stop)
    }

    fn classes(&mut self, from: EngineId, to: EngineId) -> Result<Vec<CopyClass>, TransportError> {
        let kind = self.between(from, to)?;
        self.of(kind).classes(from, to)
    }

    fn copy_as(
        &mut self,
        class: CopyClass,
        plan: &[ByteRange],
        from: EngineId,
        to: EngineId,
        stop: &Stop,
    ) -> Result<(), TransportError> {
        let kind = self.between(from, to)?;
        self.of(kind).copy_as(class, plan, from, to, stop)
    }

    fn checksum(
        &mut self,
        engine: EngineId,
        ranges: &mut dyn Iterator<Item = (u64, u64)>,
        stop: &Stop,
    ) -> Result<u64, TransportError> {
        let kind = self.kind(engine)?;
        self.of(kind).checksum(engine, ranges, stop)
    }
}
