//! The primary context of a GPU: the one that everything in a process shares, PyTorch included.

use std::sync::Arc;
use std::{fmt, ptr};

use cudarc::driver::sys::{self, CUresult};

use dualpool_types::Bytes;

use super::device::CudaDevice;
use super::driver::Driver;
use super::error::{CudaCode, CudaError, check, log_failure};
use super::event::{Event, Timing};
use super::memory::DeviceMemory;
use super::pinned::PinnedMemory;
use super::stream::Stream;

/// Retained as long as one clone or anything made from it lives. All threads may use it.
#[derive(Clone)]
pub struct Context(Arc<Primary>);

struct Primary {
    device: CudaDevice,
    handle: sys::CUcontext,
}

// SAFETY: the driver allows any thread to use a context, and synchronises itself.
unsafe impl Send for Primary {}
// SAFETY: as above.
unsafe impl Sync for Primary {}

impl Drop for Primary {
    fn drop(&mut self) {
        // SAFETY: retained once, in `Context::retain`, and released once, here.
        log_failure("cuDevicePrimaryCtxRelease", &self.device, unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device.handle) });
    }
}

impl Context {
    pub fn retain(device: &CudaDevice) -> Result<Context, CudaError> {
        let mut handle = ptr::null_mut();
        // SAFETY: `device` is one of the initialised driver's, and `handle` outlives the call.
        check("cuDevicePrimaryCtxRetain", device, unsafe { sys::cuDevicePrimaryCtxRetain(&mut handle, device.handle) })?;
        Ok(Context(Arc::new(Primary { device: device.clone(), handle })))
    }

    pub fn device(&self) -> &CudaDevice {
        &self.0.device
    }

    pub fn driver(&self) -> Driver {
        self.0.device.driver.0
    }

    pub(super) fn handle(&self) -> sys::CUcontext {
        self.0.handle
    }

    /// Makes it the calling thread's current context, which most calls of the driver act on. All functions here do so themselves.
    pub fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained.
        check("cuCtxSetCurrent", self.device(), unsafe { sys::cuCtxSetCurrent(self.handle()) })
    }

    pub fn stream(&self) -> Result<Stream, CudaError> {
        Stream::create(self)
    }

    pub fn event(&self, timing: Timing) -> Result<Event, CudaError> {
        Event::create(self, timing)
    }

    /// Memory of this GPU; its content is undefined.
    pub fn allocate(&self, size: Bytes) -> Result<DeviceMemory, CudaError> {
        DeviceMemory::allocate(self, size)
    }

    /// Memory of the machine that every GPU copies to and from without a detour; its content is undefined.
    pub fn pinned(&self, size: Bytes) -> Result<PinnedMemory, CudaError> {
        PinnedMemory::allocate(self, size)
    }

    /// (free, total) memory of the GPU, counting all processes.
    pub fn memory(&self) -> Result<(Bytes, Bytes), CudaError> {
        let (mut free, mut total) = (0, 0);
        self.bind()?;
        // SAFETY: both outlive the call.
        check("cuMemGetInfo", self.device(), unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok((Bytes(free as u64), Bytes(total as u64)))
    }

    /// Lets kernels and copies of this context use the memory of `peer`'s GPU directly. Harmless when repeated, and needed for each
    /// direction apart. A context and another of the same GPU need nothing.
    pub fn enable_peer(&self, peer: &Context) -> Result<(), CudaError> {
        if self.device().handle == peer.device().handle {
            return Ok(());
        }
        let no_access = || CudaError::NoPeerAccess { from: self.device().to_string(), to: peer.device().to_string() };
        if !self.device().can_access(peer.device())? {
            return Err(no_access());
        }
        self.bind()?;
        // SAFETY: both contexts are retained; the only flag word that exists is 0.
        match unsafe { sys::cuCtxEnablePeerAccess(peer.handle(), 0) } {
            CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => Ok(()),
            // Without NVSwitch a GPU has peer access to eight others at most.
            CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED | CUresult::CUDA_ERROR_TOO_MANY_PEERS => Err(no_access()),
            result => check("cuCtxEnablePeerAccess", self.device(), result),
        }
    }

    /// Waits for all work of this context.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the context is current.
        check("cuCtxSynchronize", self.device(), unsafe { sys::cuCtxSynchronize() })
    }

    pub(super) fn fails(&self, operation: &'static str, code: CUresult) -> CudaError {
        CudaError::Failed { operation, gpu: self.device().to_string(), code: CudaCode(code) }
    }

    /// Whether both are the same GPU's.
    pub fn same_gpu(&self, other: &Context) -> bool {
        self.device().handle == other.device().handle
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context of {}", self.device())
    }
}
