//! Memory of a GPU, and pieces of it that copies are made between.

use std::fmt;

use cudarc::driver::sys;

use dualpool_types::Bytes;

use super::context::Context;
use super::error::{CudaError, check, log_failure};

/// An address on a GPU; of no use to the CPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePtr(pub u64);

impl fmt::Debug for DevicePtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A piece of a GPU's memory, within the bounds of what it was taken from. For queueing; what is queued does not keep the memory.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSpan<'m> {
    pub(super) context: &'m Context,
    ptr: DevicePtr,
    bytes: u64,
}

impl<'m> DeviceSpan<'m> {
    /// `bytes` bytes at `offset` of a memory of `size` bytes at `base`.
    pub(super) fn within(
        context: &'m Context,
        base: DevicePtr,
        size: Bytes,
        offset: u64,
        bytes: u64,
    ) -> Result<DeviceSpan<'m>, CudaError> {
        match offset.checked_add(bytes) {
            Some(end) if end <= size.0 => Ok(DeviceSpan { context, ptr: DevicePtr(base.0 + offset), bytes }),
            _ => Err(CudaError::OutOfBounds { what: "GPU memory", offset, length: bytes, size }),
        }
    }

    pub fn context(&self) -> &'m Context {
        self.context
    }

    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A piece of this piece.
    pub fn span(&self, offset: u64, bytes: u64) -> Result<DeviceSpan<'m>, CudaError> {
        DeviceSpan::within(self.context, self.ptr, Bytes(self.bytes), offset, bytes)
    }

    /// The same length in the driver's type. Memory that exists is never longer than the address space.
    pub(super) fn size(&self) -> usize {
        self.bytes as usize
    }
}

/// Memory allocated by this process, freed on drop. Freeing waits for the work of the GPU that was queued before.
#[derive(Debug)]
pub struct DeviceMemory {
    context: Context,
    ptr: DevicePtr,
    size: Bytes,
}

impl DeviceMemory {
    pub(super) fn allocate(context: &Context, size: Bytes) -> Result<DeviceMemory, CudaError> {
        let mut ptr = 0;
        context.bind()?;
        // SAFETY: a context is current, and `ptr` outlives the call.
        check("cuMemAlloc", context.device(), unsafe { sys::cuMemAlloc_v2(&mut ptr, size.0 as usize) })?;
        Ok(DeviceMemory { context: context.clone(), ptr: DevicePtr(ptr), size })
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    pub fn size(&self) -> Bytes {
        self.size
    }

    pub fn span(&self, offset: u64, bytes: u64) -> Result<DeviceSpan<'_>, CudaError> {
        DeviceSpan::within(&self.context, self.ptr, self.size, offset, bytes)
    }

    pub fn whole(&self) -> DeviceSpan<'_> {
        DeviceSpan { context: &self.context, ptr: self.ptr, bytes: self.size.0 }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: allocated once and freed once, in a context that is retained.
        let result = unsafe {
            sys::cuCtxSetCurrent(self.context.handle());
            sys::cuMemFree_v2(self.ptr.0)
        };
        log_failure("cuMemFree", self.context.device(), result);
    }
}
