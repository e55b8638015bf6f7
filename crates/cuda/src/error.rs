//! What can go wrong between this program and the driver, each with the operation, the GPU and the driver's own name for it.

use std::fmt;

use cudarc::driver::sys::CUresult;

use dualpool_types::Bytes;

use super::device::CudaDevice;
use super::driver::CudaVersion;
use super::uuid::GpuUuid;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    #[error(
        "no CUDA driver: the loader finds no libcuda.so.1; install the NVIDIA driver, or add the folder that holds the library to \
         LD_LIBRARY_PATH"
    )]
    NoDriver,
    #[error("the NVIDIA driver supports CUDA {found}, and CUDA {needed} is needed; install a newer driver")]
    DriverTooOld { found: CudaVersion, needed: CudaVersion },
    #[error("CUDA has no GPU {wanted}; it has {}. CUDA_VISIBLE_DEVICES may hide it", list(.present))]
    NoSuchGpu { wanted: GpuUuid, present: Vec<GpuUuid> },
    #[error(
        "{from} cannot access the memory of {to}: the platform offers no peer access between them, or no more of it; copy through host \
         memory"
    )]
    NoPeerAccess { from: String, to: String },
    #[error("{length} bytes at offset {offset} are not within the {size} of {what}")]
    OutOfBounds { what: &'static str, offset: u64, length: u64, size: Bytes },
    #[error("a copy of {from} bytes to a place of {to} bytes")]
    LengthsDiffer { from: u64, to: u64 },
    #[error(
        "memory at {address:#x} of {gpu} has no IPC handle ({code}); expandable segments have none: start the engine with \
         PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False"
    )]
    NotExportable { gpu: String, address: u64, code: CudaCode },
    #[error("a process cannot import its own CUDA memory ({gpu}, {code}); use the memory itself")]
    OwnMemory { gpu: String, code: CudaCode },
    #[error("range {index} of a batch of {count} copies on {gpu} was refused: {code}")]
    BatchRefused { gpu: String, index: usize, count: usize, code: CudaCode },
    #[error("{gpu} does not accept the kernels: {code}{log}")]
    Module { gpu: String, code: CudaCode, log: String },
    #[error("{operation} failed on {gpu}: {code}")]
    Failed { operation: &'static str, gpu: String, code: CudaCode },
}

impl CudaError {
    /// The driver's own error, where the driver refused something.
    pub fn code(&self) -> Option<CudaCode> {
        match self {
            CudaError::NotExportable { code, .. }
            | CudaError::OwnMemory { code, .. }
            | CudaError::BatchRefused { code, .. }
            | CudaError::Module { code, .. }
            | CudaError::Failed { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the context is lost with it: no later call on this GPU can succeed in this process, so a retry is useless.
    pub fn is_sticky(&self) -> bool {
        self.code().is_some_and(CudaCode::is_sticky)
    }
}

/// An error of the driver, shown by the name it has in the driver's documentation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CudaCode(pub(super) CUresult);

impl CudaCode {
    pub fn is_out_of_memory(self) -> bool {
        self.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
    }

    /// Errors of asynchronous work, after which the driver answers every call on the context with the same error.
    pub fn is_sticky(self) -> bool {
        use CUresult::*;
        matches!(
            self.0,
            CUDA_ERROR_ECC_UNCORRECTABLE
                | CUDA_ERROR_NVLINK_UNCORRECTABLE
                | CUDA_ERROR_ILLEGAL_ADDRESS
                | CUDA_ERROR_LAUNCH_TIMEOUT
                | CUDA_ERROR_ASSERT
                | CUDA_ERROR_HARDWARE_STACK_ERROR
                | CUDA_ERROR_ILLEGAL_INSTRUCTION
                | CUDA_ERROR_MISALIGNED_ADDRESS
                | CUDA_ERROR_INVALID_ADDRESS_SPACE
                | CUDA_ERROR_INVALID_PC
                | CUDA_ERROR_LAUNCH_FAILED
                | CUDA_ERROR_DEINITIALIZED
                | CUDA_ERROR_UNKNOWN
        )
    }
}

impl fmt::Display for CudaCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Debug for CudaCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The result of a driver call on `device`. The GPU is put into words only when the call failed.
pub(super) fn check(operation: &'static str, device: &CudaDevice, result: CUresult) -> Result<(), CudaError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(CudaError::Failed { operation, gpu: device.to_string(), code: CudaCode(code) }),
    }
}

/// For destructors, which cannot return an error: the driver's goes into the log. A driver that shuts down with the process has
/// freed everything already.
pub(super) fn log_failure(operation: &'static str, device: &CudaDevice, result: CUresult) {
    if result != CUresult::CUDA_SUCCESS && result != CUresult::CUDA_ERROR_DEINITIALIZED {
        tracing::warn!("{operation} failed on {device}: {}", CudaCode(result));
    }
}

fn list(uuids: &[GpuUuid]) -> String {
    match uuids {
        [] => "none".into(),
        _ => uuids.iter().map(GpuUuid::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_operation_gpu_and_code() {
        let code = CudaCode(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let error = CudaError::Failed { operation: "cuMemAlloc", gpu: "GPU 0".into(), code };
        assert_eq!(error.to_string(), "cuMemAlloc failed on GPU 0: CUDA_ERROR_OUT_OF_MEMORY");
        assert!(code.is_out_of_memory() && !error.is_sticky());
    }

    #[test]
    fn a_lost_context_is_told_from_a_refused_call() {
        let failed = |code| CudaError::Failed { operation: "cuStreamSynchronize", gpu: "GPU 0".into(), code: CudaCode(code) };
        assert!(failed(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS).is_sticky());
        assert!(!failed(CUresult::CUDA_ERROR_INVALID_VALUE).is_sticky());
        assert!(!CudaError::NoDriver.is_sticky());
    }

    #[test]
    fn both_versions_are_named() {
        let error = CudaError::DriverTooOld { found: CudaVersion(11_040), needed: CudaVersion(12_000) };
        assert_eq!(error.to_string(), "the NVIDIA driver supports CUDA 11.4, and CUDA 12.0 is needed; install a newer driver");
    }
}
