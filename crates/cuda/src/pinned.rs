//! Memory of the machine that GPUs read and write by themselves: what copies go through where GPUs cannot reach each other.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use cudarc::driver::sys;

use dualpool_types::Bytes;

use super::context::Context;
use super::error::{CudaError, check, log_failure};

/// Every GPU of the process may copy to and from it, not only the one of its context.
#[derive(Debug)]
pub struct PinnedMemory {
    context: Context,
    at: NonNull<c_void>,
    size: Bytes,
}

// SAFETY: plain memory; the safety sections of `bytes` and `bytes_mut` say when it may be touched.
unsafe impl Send for PinnedMemory {}
// SAFETY: as above.
unsafe impl Sync for PinnedMemory {}

impl PinnedMemory {
    pub(super) fn allocate(context: &Context, size: Bytes) -> Result<PinnedMemory, CudaError> {
        let mut at = ptr::null_mut();
        context.bind()?;
        // SAFETY: a context is current, and `at` outlives the call.
        let result = unsafe { sys::cuMemHostAlloc(&mut at, size.0 as usize, sys::CU_MEMHOSTALLOC_PORTABLE) };
        check("cuMemHostAlloc", context.device(), result)?;
        let at = NonNull::new(at).ok_or_else(|| context.fails("cuMemHostAlloc", sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY))?;
        Ok(PinnedMemory { context: context.clone(), at, size })
    }

    pub fn size(&self) -> Bytes {
        self.size
    }

    /// # Safety
    /// No queued copy or kernel may still write to it: wait for an event after the last one first.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this size; no copy or kernel writes to it, by this function's contract.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast(), self.size.0 as usize) }
    }

    /// # Safety
    /// No queued copy or kernel may still read it or write to it.
    pub unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this size, borrowed mutably; no copy or kernel touches it, by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr().cast(), self.size.0 as usize) }
    }

    /// The address of `bytes` bytes at `offset`.
    pub(super) fn at(&self, offset: u64, bytes: u64) -> Result<*mut c_void, CudaError> {
        match offset.checked_add(bytes) {
            // SAFETY: within the allocation, as just checked.
            Some(end) if end <= self.size.0 => Ok(unsafe { self.at.as_ptr().byte_add(offset as usize) }),
            _ => Err(CudaError::OutOfBounds { what: "pinned memory", offset, length: bytes, size: self.size }),
        }
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated once and freed once. That freeing waits for copies of this GPU is not documented, so it is done here;
        // copies of other GPUs are up to their owner, as with all memory here.
        let result = unsafe {
            sys::cuCtxSetCurrent(self.context.handle());
            sys::cuCtxSynchronize();
            sys::cuMemFreeHost(self.at.as_ptr())
        };
        log_failure("cuMemFreeHost", self.context.device(), result);
    }
}
