//! Finds the driver, or says why it cannot be used.

use std::fmt;
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUdeviceptr, CUmemcpyAttributes, CUresult, CUstream};

use super::device::{CudaDevice, Ordinal};
use super::error::{CudaCode, CudaError};
use super::uuid::GpuUuid;

/// Kernels built for a CUDA 12 driver run on every later one of that line and beyond; older drivers lack them.
pub const DRIVER_VERSION_MIN: CudaVersion = CudaVersion(12_000);
/// The driver that brought `cuMemcpyBatchAsync`.
const BATCH_VERSION_MIN: CudaVersion = CudaVersion(12_080);
/// The driver that gave it another form.
const BATCH_V2_VERSION_MIN: CudaVersion = CudaVersion(13_000);

/// The CUDA version that a driver supports, as the driver counts: 12080 is 12.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CudaVersion(pub u32);

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// The loaded and initialised driver of this machine. Copying it costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    version: CudaVersion,
    batch: BatchCopies,
    /// A driver without a GPU is no error, but it answers no question about devices either.
    has_gpu: bool,
}

impl Driver {
    /// Loads libcuda with the system's loader, once per process; where it is not in a standard place, `LD_LIBRARY_PATH` leads to it.
    pub fn load() -> Result<Driver, CudaError> {
        static DRIVER: OnceLock<Result<Driver, CudaError>> = OnceLock::new();
        DRIVER.get_or_init(load).clone()
    }

    pub fn version(&self) -> CudaVersion {
        self.version
    }

    /// How this driver takes many copies in one call.
    pub fn batch_copies(&self) -> BatchCopies {
        self.batch
    }

    /// The GPUs that CUDA shows to this process, in CUDA's order, which is not NVML's: go by UUID.
    pub fn devices(&self) -> Result<Vec<CudaDevice>, CudaError> {
        if !self.has_gpu {
            return Ok(Vec::new());
        }
        let mut count = 0;
        // SAFETY: the driver is initialised, and `count` outlives the call.
        whole_driver("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
        (0..count.unsigned_abs()).map(|ordinal| CudaDevice::query(*self, Ordinal(ordinal))).collect()
    }

    pub fn device(&self, uuid: GpuUuid) -> Result<CudaDevice, CudaError> {
        let devices = self.devices()?;
        let present = || devices.iter().map(|device| device.uuid).collect();
        devices
            .iter()
            .find(|device| device.uuid == uuid)
            .cloned()
            .ok_or_else(|| CudaError::NoSuchGpu { wanted: uuid, present: present() })
    }
}

/// The batch call in the form that the driver has it. CUDA 13 took an argument away and gave the new form another symbol; drivers keep
/// the old one beside it.
#[derive(Clone, Copy)]
pub enum BatchCopies {
    /// Older than CUDA 12.8: one call per range.
    None,
    V1(BatchV1),
    V2(BatchV2),
}

// SAFETY: of a call: the lists have as many entries as said, and all memory named exists (both forms).
type BatchV1 = unsafe extern "C" fn(
    *mut CUdeviceptr,
    *mut CUdeviceptr,
    *mut usize,
    usize,
    *mut CUmemcpyAttributes,
    *mut usize,
    usize,
    *mut usize,
    CUstream,
) -> CUresult;

// SAFETY: of a call: as of `BatchV1`.
type BatchV2 = unsafe extern "C" fn(
    *mut CUdeviceptr,
    *mut CUdeviceptr,
    *mut usize,
    usize,
    *mut CUmemcpyAttributes,
    *mut usize,
    usize,
    CUstream,
) -> CUresult;

impl BatchCopies {
    fn of(version: CudaVersion) -> BatchCopies {
        if version < BATCH_VERSION_MIN {
            return BatchCopies::None;
        }
        // cudarc's own functions panic where a symbol is missing; looking them up here does not.
        // SAFETY: the library is loaded and never unloaded, and each type is the one CUDA documents for its symbol.
        let (v1, v2) = unsafe {
            let library = sys::culib();
            (library.get::<BatchV1>(b"cuMemcpyBatchAsync\0"), library.get::<BatchV2>(b"cuMemcpyBatchAsync_v2\0"))
        };
        match (v1, v2) {
            (_, Ok(v2)) if version >= BATCH_V2_VERSION_MIN => BatchCopies::V2(*v2),
            (Ok(v1), _) => BatchCopies::V1(*v1),
            _ => BatchCopies::None,
        }
    }
}

impl fmt::Debug for BatchCopies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BatchCopies::None => "one call per range",
            BatchCopies::V1(_) => "cuMemcpyBatchAsync",
            BatchCopies::V2(_) => "cuMemcpyBatchAsync_v2",
        })
    }
}

fn load() -> Result<Driver, CudaError> {
    // SAFETY: loading libcuda runs its initialisers, which is what the NVIDIA driver is installed for.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    let mut version = 0;
    // The version comes first: it is the one thing that a driver answers before `cuInit`, which an old driver may refuse.
    // SAFETY: `version` outlives the call.
    whole_driver("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    let version = CudaVersion(version.unsigned_abs());
    if version < DRIVER_VERSION_MIN {
        return Err(CudaError::DriverTooOld { found: version, needed: DRIVER_VERSION_MIN });
    }
    // SAFETY: 0 is the only flag word that exists.
    let has_gpu = match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_ERROR_NO_DEVICE => false,
        result => whole_driver("cuInit", result).map(|()| true)?,
    };
    Ok(Driver { version, batch: BatchCopies::of(version), has_gpu })
}

fn whole_driver(operation: &'static str, result: CUresult) -> Result<(), CudaError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(CudaError::Failed { operation, gpu: "the machine".into(), code: CudaCode(code) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_shown_as_people_write_them() {
        assert_eq!(CudaVersion(12_080).to_string(), "12.8");
        assert_eq!(CudaVersion(13_000).to_string(), "13.0");
    }

    #[test]
    fn this_machine_has_a_driver_or_a_reason_why_not() {
        match Driver::load() {
            Ok(driver) => assert!(driver.version() >= DRIVER_VERSION_MIN),
            Err(error) => assert!(error.to_string().contains("driver") || error.code().is_some(), "{error}"),
        }
    }
}
