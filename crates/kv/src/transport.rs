//! What copies bytes between two engines' memories. A transport owns its view of every engine's memory; copy plans name engines, and
//! offsets within their memory, so that nothing here tells host memory from a GPU's.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

use dualpool_cuda::IpcHandle;
use dualpool_types::EngineId;

use super::copy_plan::ByteRange;
use super::cost::CopyClass;

/// A handle to an engine's KV memory, as its connector sent it.
#[derive(Debug)]
pub enum Memory {
    /// A memfd of at least this many bytes.
    Shm { fd: OwnedFd, bytes: u64 },
    /// Pieces of allocations on one GPU, addressed as if they lay behind each other.
    Cuda { segments: Vec<IpcHandle> },
}

#[derive(Debug, Error)]
pub enum TransportError {
    #[error("cannot map the KV memory of {engine}: {why}")]
    Map { engine: EngineId, why: String },
    #[error("the memory of {engine} is not mapped")]
    NotMapped { engine: EngineId },
    #[error("the copy would reach byte {end} of {engine}, whose memory has {bytes}")]
    OutOfBounds { engine: EngineId, end: u64, bytes: u64 },
    #[error("KV memory of {from} and {to} is of different kinds ({from_kind} and {to_kind}); nothing copies between them")]
    Kinds { from: EngineId, to: EngineId, from_kind: &'static str, to_kind: &'static str },
    #[error("the copy from {from} to {to} failed: {why}")]
    Failed { from: EngineId, to: EngineId, why: String },
    #[error("the KV memory of {engine} could not be read: {why}")]
    Unreadable { engine: EngineId, why: String },
    #[error("the copy was stopped because one of its engines is gone")]
    Stopped,
    #[error("there is no class `{class}` of copy from {from} to {to}")]
    NoSuchClass { class: CopyClass, from: EngineId, to: EngineId },
}

pub trait Transport: Send {
    /// Makes an engine's memory reachable. Called once per engine before any copy, and after `unmap` again for its successor.
    fn map(&mut self, engine: EngineId, memory: Memory) -> Result<(), TransportError>;

    /// Lets go of an engine's memory. Unknown engines are ignored.
    fn unmap(&mut self, engine: EngineId);

    /// Executes a copy plan; when it returns, all bytes are there. Gives up early, with `Stopped`, once `stop` is set.
    fn copy(&mut self, plan: &[ByteRange], from: EngineId, to: EngineId, stop: &Stop) -> Result<(), TransportError>;

    /// The classes in which this transport can bring bytes from one of these engines to the other; never empty. The first question makes
    /// what copies between them need.
    fn classes(&mut self, _from: EngineId, _to: EngineId) -> Result<Vec<CopyClass>, TransportError> {
        Ok(vec![CopyClass::Direct])
    }

    /// `copy` in a class that the caller chose, so that each can be measured.
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
        self.copy(plan, from, to, stop)
    }

    /// A checksum of these `(offset, length)` ranges, in this order. Gives up early as `copy` does.
    fn checksum(
        &mut self,
        engine: EngineId,
        ranges: &mut dyn Iterator<Item = (u64, u64)>,
        stop: &Stop,
    ) -> Result<u64, TransportError>;
}

/// Tells a running copy to give up.
#[derive(Debug, Default)]
pub struct Stop {
    flag: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    pub fn set(&self) {
        // Under the lock, so that a waiter cannot miss it between its check and its wait.
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.flag.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Waits this long, or until it is set.
    pub fn wait(&self, span: Duration) {
        let end = Instant::now() + span;
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero() && !self.is_set()) {
            guard = self.changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
