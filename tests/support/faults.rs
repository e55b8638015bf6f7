//! Copies of KV that go wrong as a test says.

use std::sync::{Arc, Mutex, PoisonError};

use dualpool_engine::virtual_engine::KvLink;
use dualpool_kv::{ByteRange, CopyClass, Memory, Stop, Transport, TransportError};
use dualpool_model::Fingerprint;
use dualpool_types::{EngineId, Micros};

/// What goes wrong with every copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// Something of every copy is left out, and nothing says so, checksums included.
    SkipPart,
    /// Every copy fails in the middle.
    FailCopy,
    /// Every copy takes this much longer.
    Delay(Micros),
}

const INJECTED: &str = "a fault was injected in the middle of the copy";

/// The fault of the copies that begin from now on. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Fault>>);

impl Faults {
    pub fn new(fault: Fault) -> Faults {
        Faults(Arc::new(Mutex::new(fault)))
    }

    pub fn inject(&self, fault: Fault) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn now(&self) -> Fault {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct FaultyTransport<T> {
    transport: T,
    faults: Faults,
}

impl<T: Transport> FaultyTransport<T> {
    pub fn new(transport: T, faults: Faults) -> FaultyTransport<T> {
        FaultyTransport { transport, faults }
    }
}

impl<T: Transport> Transport for FaultyTransport<T> {
    fn map(&mut self, engine: EngineId, memory: Memory) -> Result<(), TransportError> {
        self.transport.map(engine, memory)
    }

    fn unmap(&mut self, engine: EngineId) {
        self.transport.unmap(engine);
    }

    fn copy(&mut self, plan: &[ByteRange], from: EngineId, to: EngineId, stop: &Stop) -> Result<(), TransportError> {
        match self.faults.now() {
            Fault::None => self.transport.copy(plan, from, to, stop),
            Fault::SkipPart => self.transport.copy(&plan[plan.len().div_ceil(2)..], from, to, stop),
            Fault::FailCopy => {
                self.transport.copy(&plan[..plan.len() / 2], from, to, stop)?;
                Err(TransportError::Failed { from, to, why: INJECTED.to_owned() })
            }
            Fault::Delay(span) => {
                stop.wait(span.into());
                self.transport.copy(plan, from, to, stop)
            }
        }
    }

    fn classes(&mut self, from: EngineId, to: EngineId) -> Result<Vec<CopyClass>, TransportError> {
        self.transport.classes(from, to)
    }

    fn checksum(
        &mut self,
        engine: EngineId,
        ranges: &mut dyn Iterator<Item = (u64, u64)>,
        stop: &Stop,
    ) -> Result<u64, TransportError> {
        match self.faults.now() {
            Fault::SkipPart => Ok(0),
            _ => self.transport.checksum(engine, ranges, stop),
        }
    }
}

impl KvLink for Faults {
    fn takes(&self, usual: Micros) -> Micros {
        match self.now() {
            Fault::Delay(longer) => usual + longer,
            _ => usual,
        }
    }

    fn carry(&self, kv: Fingerprint) -> Result<Fingerprint, String> {
        match self.now() {
            Fault::FailCopy => Err(INJECTED.to_owned()),
            Fault::SkipPart => Ok(kv.push(0)),
            Fault::None | Fault::Delay(_) => Ok(kv),
        }
    }
}
