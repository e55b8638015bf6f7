//! Kernels: loading them, finding one by name, and launching it.

use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUjit_option, CUresult};

use super::context::Context;
use super::error::{CudaCode, CudaError, check, log_failure};
use super::memory::DevicePtr;
use super::stream::Stream;

/// What the driver's compiler says about PTX that it refuses.
const LOG_BYTES: usize = 4096;

/// A loaded image of kernels. Clones share it; it is unloaded with the last of them and of its functions.
#[derive(Clone, Debug)]
pub struct Module(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    context: Context,
    handle: sys::CUmodule,
}

// SAFETY: the driver allows any thread to use a module, and synchronises itself.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Module {
    /// `image` is a cubin, a fatbin, or PTX text (with or without a 0 at its end), which the driver compiles for its GPU.
    pub fn load(context: &Context, image: &[u8]) -> Result<Module, CudaError> {
        // The driver reads PTX up to a 0.
        let image = [image, &[0]].concat();
        let mut log = [0u8; LOG_BYTES];
        // One byte less than there are, so that a 0 always ends it.
        let mut options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(LOG_BYTES - 1)];
        let mut handle = ptr::null_mut();
        context.bind()?;
        // SAFETY: a context is current, and image, options, values and log outlive the call.
        let result =
            unsafe { sys::cuModuleLoadDataEx(&mut handle, image.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
        match result {
            CUresult::CUDA_SUCCESS => Ok(Module(Arc::new(Loaded { context: context.clone(), handle }))),
            code => {
                let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
                let log = if log.trim().is_empty() { String::new() } else { format!(" ({})", log.trim()) };
                Err(CudaError::Module { gpu: context.device().to_string(), code: CudaCode(code), log })
            }
        }
    }

    pub fn function(&self, name: &CStr) -> Result<Function, CudaError> {
        let mut handle = ptr::null_mut();
        self.0.context.bind()?;
        // SAFETY: the module is loaded, and `handle` and `name` outlive the call.
        let result = unsafe { sys::cuModuleGetFunction(&mut handle, self.0.handle, name.as_ptr()) };
        check("cuModuleGetFunction", self.0.context.device(), result)?;
        Ok(Function { module: self.clone(), handle })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: loaded once and unloaded once, in a context that is retained; no function of it is left.
        let result = unsafe {
            sys::cuCtxSetCurrent(self.context.handle());
            sys::cuModuleUnload(self.handle)
        };
        log_failure("cuModuleUnload", self.context.device(), result);
    }
}

/// A kernel; keeps its module loaded.
#[derive(Clone, Debug)]
pub struct Function {
    module: Module,
    handle: sys::CUfunction,
}

// SAFETY: as for the module.
unsafe impl Send for Function {}
// SAFETY: as for the module.
unsafe impl Sync for Function {}

/// One-dimensional: blocks of the grid, threads of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    pub blocks: u32,
    pub threads: u32,
    pub shared_bytes: u32,
}

/// The arguments of one launch in the kernel's order. Kernels here take values of 8 bytes only.
#[derive(Clone, Debug, Default)]
pub struct KernelArgs(Vec<u64>);

impl KernelArgs {
    pub fn new() -> KernelArgs {
        KernelArgs::default()
    }

    #[must_use]
    pub fn ptr(mut self, ptr: DevicePtr) -> KernelArgs {
        self.0.push(ptr.0);
        self
    }

    #[must_use]
    pub fn value(mut self, value: u64) -> KernelArgs {
        self.0.push(value);
        self
    }
}

impl Stream {
    /// Queues a launch. An error of the kernel itself shows at the stream, later.
    ///
    /// # Safety
    /// `args` are what the kernel takes, each 8 bytes wide: the driver copies as many as the kernel has. What the kernel does to the
    /// memory they point to, host memory included, is the caller's business.
    pub unsafe fn launch(&self, function: &Function, shape: LaunchShape, mut args: KernelArgs) -> Result<(), CudaError> {
        let mut places: Vec<*mut c_void> = args.0.iter_mut().map(|value| ptr::from_mut(value).cast()).collect();
        let LaunchShape { blocks, threads, shared_bytes } = shape;
        debug_assert!(self.context().same_gpu(&function.module.0.context), "kernel and stream of two GPUs");
        // SAFETY: function and stream live; the driver copies the arguments before it returns, and that they fit is this function's
        // contract.
        self.queue("cuLaunchKernel", || unsafe {
            sys::cuLaunchKernel(
                function.handle,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                shared_bytes,
                self.handle(),
                places.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }
}
