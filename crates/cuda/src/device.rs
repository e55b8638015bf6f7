//! One GPU as CUDA sees it.

use std::ffi::{CStr, c_char};
use std::fmt;

use cudarc::driver::sys::{self, CUdevice_attribute};

use dualpool_types::Bytes;

use super::driver::Driver;
use super::error::{CudaError, check};
use super::uuid::GpuUuid;

/// A GPU's place in CUDA's list for this process. It changes with `CUDA_VISIBLE_DEVICES` and is not NVML's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordinal(pub u32);

/// 9.0 for Hopper; what a kernel's machine code is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComputeCapability {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaDevice {
    pub ordinal: Ordinal,
    pub uuid: GpuUuid,
    pub name: String,
    /// `0000:11:00.0`
    pub pci_bus_id: String,
    pub memory: Bytes,
    pub compute_capability: ComputeCapability,
    pub multiprocessors: u32,
    pub(super) driver: DriverOf,
    pub(super) handle: sys::CUdevice,
}

/// The driver that a device was found by. Two of them are always the same one, as a process loads one driver.
#[derive(Clone, Copy, Debug)]
pub(super) struct DriverOf(pub(super) Driver);

impl PartialEq for DriverOf {
    fn eq(&self, _: &DriverOf) -> bool {
        true
    }
}

impl Eq for DriverOf {}

/// `CUDA GPU 1 (GPU-...)`: the UUID is what tells it from NVML's numbering.
impl fmt::Display for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CUDA GPU {} ({})", self.ordinal.0, self.uuid)
    }
}

/// Longest name or bus id that the driver gives, with the 0 at its end.
const TEXT_BYTES: usize = 256;

impl CudaDevice {
    pub(super) fn query(driver: Driver, ordinal: Ordinal) -> Result<CudaDevice, CudaError> {
        // Filled in as the driver answers, so that each error names what is known by then.
        let mut device = CudaDevice {
            ordinal,
            uuid: GpuUuid::from_bytes([0; 16]),
            name: String::new(),
            pci_bus_id: String::new(),
            memory: Bytes(0),
            compute_capability: ComputeCapability { major: 0, minor: 0 },
            multiprocessors: 0,
            driver: DriverOf(driver),
            handle: 0,
        };
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        let mut memory = 0;
        let mut handle = 0;
        // SAFETY: the driver is initialised (a `Driver` exists) and all targets outlive the calls, here and below.
        check("cuDeviceGet", &device, unsafe { sys::cuDeviceGet(&mut handle, ordinal.0.cast_signed()) })?;
        device.handle = handle;
        // SAFETY: as above; `handle` is a device.
        check("cuDeviceGetUuid", &device, unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, handle) })?;
        device.uuid = GpuUuid::from_bytes(uuid.bytes.map(c_char::cast_unsigned));
        // SAFETY: as above.
        check("cuDeviceTotalMem", &device, unsafe { sys::cuDeviceTotalMem_v2(&mut memory, handle) })?;
        device.memory = Bytes(memory as u64);
        // SAFETY: as above; `text` passes a buffer and its length.
        device.name = text(|at, length| check("cuDeviceGetName", &device, unsafe { sys::cuDeviceGetName(at, length, handle) }))?;
        // SAFETY: as above.
        let bus_id = |at, length| check("cuDeviceGetPCIBusId", &device, unsafe { sys::cuDeviceGetPCIBusId(at, length, handle) });
        device.pci_bus_id = text(bus_id)?;
        device.compute_capability = ComputeCapability {
            major: device.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            minor: device.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        };
        device.multiprocessors = device.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(device)
    }

    /// Whether this GPU can read and write the other's memory over a link between them. A GPU and itself: yes.
    pub fn can_access(&self, peer: &CudaDevice) -> Result<bool, CudaError> {
        if self.handle == peer.handle {
            return Ok(true);
        }
        let mut can = 0;
        // SAFETY: both are devices of the initialised driver, and `can` outlives the call.
        check("cuDeviceCanAccessPeer", self, unsafe { sys::cuDeviceCanAccessPeer(&mut can, self.handle, peer.handle) })?;
        Ok(can != 0)
    }

    fn attribute(&self, attribute: CUdevice_attribute) -> Result<u32, CudaError> {
        let mut value = 0;
        // SAFETY: `handle` is a device of the initialised driver, and `value` outlives the call.
        check("cuDeviceGetAttribute", self, unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, self.handle) })?;
        Ok(value.unsigned_abs())
    }
}

/// A text that the driver writes into a buffer of given length.
fn text(fill: impl FnOnce(*mut c_char, i32) -> Result<(), CudaError>) -> Result<String, CudaError> {
    let mut buffer = [0u8; TEXT_BYTES];
    fill(buffer.as_mut_ptr().cast(), TEXT_BYTES as i32)?;
    let text = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
    Ok(text.to_string_lossy().into_owned())
}
