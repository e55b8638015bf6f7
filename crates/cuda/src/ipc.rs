//! GPU memory of another process. A handle stands for the whole allocation that an address lies in, so it goes with the offset.

use std::ffi::c_char;
use std::fmt;
use std::str::FromStr;

use cudarc::driver::sys::{self, CUipcMem_flags, CUresult};
use serde::{Deserialize, Serialize};

use dualpool_types::Bytes;

use super::context::Context;
use super::error::{CudaCode, CudaError, check, log_failure};
use super::memory::{DeviceMemory, DevicePtr, DeviceSpan};
use super::uuid::GpuUuid;

const HANDLE_BYTES: usize = 64;

/// The driver's 64 opaque bytes; as text, their hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Opaque([u8; HANDLE_BYTES]);

/// Memory that another process can import: `size` bytes at `offset` of the allocation that the handle stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpcHandle {
    #[serde(with = "as_text")]
    handle: Opaque,
    /// From the begin of the allocation to the memory meant.
    pub offset: Bytes,
    pub size: Bytes,
    pub gpu: GpuUuid,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a CUDA IPC handle is {HANDLE_BYTES} bytes in hexadecimal digits, and not `{0}`")]
pub struct IpcHandleError(String);

impl IpcHandle {
    /// From the parts that another program sends: the handle's digits, and where in the allocation the memory lies.
    pub fn from_parts(digits: &str, offset: Bytes, size: Bytes, gpu: GpuUuid) -> Result<IpcHandle, IpcHandleError> {
        Ok(IpcHandle { handle: digits.parse()?, offset, size, gpu })
    }

    /// The handle in hexadecimal digits.
    pub fn digits(&self) -> String {
        self.handle.to_string()
    }
}

impl Context {
    /// The handle for `size` bytes at `ptr`, which may lie anywhere within an allocation of this process (PyTorch makes few large ones).
    pub fn export(&self, ptr: DevicePtr, size: Bytes) -> Result<IpcHandle, CudaError> {
        let (mut base, mut allocated) = (0, 0);
        let mut handle = sys::CUipcMemHandle { reserved: [0; HANDLE_BYTES] };
        self.bind()?;
        // SAFETY: the driver checks the address, and the targets outlive the calls.
        let result = unsafe { sys::cuMemGetAddressRange_v2(&mut base, &mut allocated, ptr.0) };
        check("cuMemGetAddressRange", self.device(), result)?;
        let offset = ptr.0 - base;
        // The handle before the bounds: of expandable segments the driver gives the one piece that `ptr` is in, and what is wrong then
        // is not the size.
        // SAFETY: as above; `base` is the begin of an allocation.
        match unsafe { sys::cuIpcGetMemHandle(&mut handle, base) } {
            code @ (CUresult::CUDA_ERROR_INVALID_VALUE | CUresult::CUDA_ERROR_NOT_SUPPORTED) => {
                Err(CudaError::NotExportable { gpu: self.device().to_string(), address: ptr.0, code: CudaCode(code) })
            }
            result => {
                check("cuIpcGetMemHandle", self.device(), result)?;
                DeviceSpan::within(self, DevicePtr(base), Bytes(allocated as u64), offset, size.0)?;
                let handle = Opaque(handle.reserved.map(c_char::cast_unsigned));
                Ok(IpcHandle { handle, offset: Bytes(offset), size, gpu: self.device().uuid })
            }
        }
    }

    /// Maps memory of another process into this one. Copies want it imported by a context of the GPU that it lies on, whatever GPU
    /// copies later; a kernel that stores into it from another GPU wants it imported by that GPU's context, which enables peer access.
    pub fn import(&self, handle: &IpcHandle) -> Result<IpcMemory, CudaError> {
        let opaque = sys::CUipcMemHandle { reserved: handle.handle.0.map(u8::cast_signed) };
        let flags = CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut base = 0;
        let owner = self.driver().device(handle.gpu)?;
        if !self.device().can_access(&owner)? {
            return Err(CudaError::NoPeerAccess { from: self.device().to_string(), to: owner.to_string() });
        }
        self.bind()?;
        // SAFETY: a context is current, and `base` outlives the call. The driver checks the handle.
        match unsafe { sys::cuIpcOpenMemHandle_v2(&mut base, opaque, flags) } {
            code @ CUresult::CUDA_ERROR_INVALID_CONTEXT => {
                return Err(CudaError::OwnMemory { gpu: self.device().to_string(), code: CudaCode(code) });
            }
            result => check("cuIpcOpenMemHandle", self.device(), result)?,
        }
        let memory = IpcMemory { context: self.clone(), base: DevicePtr(base), offset: handle.offset, size: handle.size };
        memory.bounds_checked()
    }
}

impl DeviceMemory {
    pub fn export(&self) -> Result<IpcHandle, CudaError> {
        self.context().export(self.ptr(), self.size())
    }
}

/// Memory of another process, unmapped on drop. It stays valid only while its owner keeps it.
#[derive(Debug)]
pub struct IpcMemory {
    context: Context,
    base: DevicePtr,
    offset: Bytes,
    size: Bytes,
}

impl IpcMemory {
    /// The size comes from the other process; where the driver tells how much was really mapped, that decides. It promises an answer for
    /// memory of the own process only, so none is no error: the owner has checked the same before it made the handle.
    fn bounds_checked(self) -> Result<IpcMemory, CudaError> {
        let (mut start, mut mapped) = (0, 0);
        // SAFETY: the targets outlive the call, and the address was just mapped.
        match unsafe { sys::cuMemGetAddressRange_v2(&mut start, &mut mapped, self.base.0) } {
            CUresult::CUDA_SUCCESS => {
                let size = Bytes((start + mapped as u64).saturating_sub(self.base.0));
                DeviceSpan::within(&self.context, self.base, size, self.offset.0, self.size.0)?;
            }
            code => tracing::debug!("size of imported memory of {}: {}", self.context.device(), CudaCode(code)),
        }
        Ok(self)
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn ptr(&self) -> DevicePtr {
        DevicePtr(self.base.0 + self.offset.0)
    }

    pub fn size(&self) -> Bytes {
        self.size
    }

    pub fn span(&self, offset: u64, bytes: u64) -> Result<DeviceSpan<'_>, CudaError> {
        DeviceSpan::within(&self.context, self.ptr(), self.size, offset, bytes)
    }
}

impl Drop for IpcMemory {
    fn drop(&mut self) {
        // SAFETY: opened once and closed once. Copies that are still queued would lose their mapping, so they come first.
        let result = unsafe {
            sys::cuCtxSetCurrent(self.context.handle());
            sys::cuCtxSynchronize();
            sys::cuIpcCloseMemHandle(self.base.0)
        };
        log_failure("cuIpcCloseMemHandle", self.context.device(), result);
    }
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Opaque {
    type Err = IpcHandleError;

    fn from_str(text: &str) -> Result<Opaque, IpcHandleError> {
        let wrong = || IpcHandleError(text.into());
        if text.len() != 2 * HANDLE_BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; HANDLE_BYTES];
        for (byte, i) in bytes.iter_mut().zip((0..text.len()).step_by(2)) {
            *byte = u8::from_str_radix(&text[i..i + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Opaque(bytes))
    }
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Opaque;

    pub(super) fn serialize<S: Serializer>(handle: &Opaque, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(handle)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Opaque, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle() -> IpcHandle {
        let gpu = GpuUuid::from_bytes([7; 16]);
        IpcHandle::from_parts(&"0af0".repeat(32), Bytes(4096), Bytes(1 << 20), gpu).unwrap()
    }

    #[test]
    fn a_handle_travels_as_text() {
        let text = serde_json::to_string(&handle()).unwrap();
        assert!(text.contains(&handle().digits()), "{text}");
        assert_eq!(serde_json::from_str::<IpcHandle>(&text).unwrap(), handle());
    }

    #[test]
    fn broken_digits_are_refused() {
        for digits in ["", &"0a".repeat(63), &"0a".repeat(65), &"0g".repeat(64), &"é".repeat(64)] {
            let error = IpcHandle::from_parts(digits, Bytes(0), Bytes(1), handle().gpu).unwrap_err();
            assert!(error.to_string().contains("64 bytes"), "{error}");
        }
    }
}
