//! Device memory. What the caller gets is an address without memory behind it; the bytes are mapped elsewhere, for the streams.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::{Arc, Mutex};

use cudarc::driver::sys::{CUdeviceptr, CUresult};

use crate::context::{self, current};
use crate::device::{self, gpu};
use crate::entry::{Answer, put};
use crate::shm::{self, Mapping, Name};
use crate::stream;
use crate::table::lock;

const INVALID_VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// One allocation of this process, or one that it imported.
pub struct Allocation {
    /// Whose context it belongs to.
    pub device: c_int,
    pub name: Name,
    /// How often it was imported; 0 for the process's own.
    pub imports: u32,
    bytes: usize,
    addresses: Mapping,
    mapping: Arc<Mapping>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.imports == 0 {
            self.name.remove();
        }
    }
}

impl Allocation {
    pub fn new(device: c_int, name: Name, imports: u32, mapping: Mapping) -> Answer<Allocation> {
        let addresses = Mapping::reserve(mapping.bytes()).map_err(|_| CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        Ok(Allocation { device, name, imports, bytes: mapping.bytes(), addresses, mapping: Arc::new(mapping) })
    }

    pub fn base(&self) -> CUdeviceptr {
        self.addresses.at().addr() as CUdeviceptr
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// By address.
pub static MEMORY: Mutex<BTreeMap<CUdeviceptr, Allocation>> = Mutex::new(BTreeMap::new());

/// Bytes on a GPU that a copy can be made to or from. Keeps them mapped.
#[derive(Clone)]
pub struct Piece {
    /// Whose context the memory belongs to.
    pub device: c_int,
    offset: usize,
    bytes: usize,
    mapping: Arc<Mapping>,
}

impl Piece {
    pub fn at(&self) -> *mut u8 {
        debug_assert!(self.offset + self.bytes <= self.mapping.bytes());
        self.mapping.at().wrapping_add(self.offset)
    }
}

/// `bytes` bytes at `at`, all within one allocation.
pub fn find(at: CUdeviceptr, bytes: usize) -> Answer<Piece> {
    let memory = lock(&MEMORY);
    let (base, allocation) = memory.range(..=at).next_back().ok_or(INVALID_VALUE)?;
    let offset = (at - base) as usize;
    match offset.checked_add(bytes) {
        Some(end) if end <= allocation.bytes => {
            Ok(Piece { device: allocation.device, offset, bytes, mapping: allocation.mapping.clone() })
        }
        _ => Err(INVALID_VALUE),
    }
}

/// Frees what a context has, when it goes.
pub fn free_all(device: c_int) {
    lock(&MEMORY).retain(|_, allocation| allocation.device != device);
}

entry_points! {
    fn cuMemAlloc_v2(to: *mut CUdeviceptr, bytes: usize) {
        let device = current()?;
        let gpu = gpu(device)?;
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if shm::used(gpu) + bytes as u64 > device::script()?.memory_bytes() {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        let name = Name::new(gpu);
        let mapping = Mapping::create(name, bytes).map_err(|_| CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        let allocation = Allocation::new(device, name, 0, mapping)?;
        let base = allocation.base();
        lock(&MEMORY).insert(base, allocation);
        put(to, base)
    }

    /// Waits for all work of the GPU first, as the driver does.
    fn cuMemFree_v2(at: CUdeviceptr) {
        let device = match lock(&MEMORY).get(&at) {
            Some(allocation) if allocation.imports == 0 => allocation.device,
            _ => return Err(INVALID_VALUE),
        };
        stream::synchronize_all(device);
        lock(&MEMORY).remove(&at);
        context::alive(device)
    }

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let gpu = gpu(current()?)?;
        let all = device::script()?.memory_bytes();
        put(free, all.saturating_sub(shm::used(gpu)) as usize)?;
        put(total, all as usize)
    }

    fn cuMemGetAddressRange_v2(base: *mut CUdeviceptr, bytes: *mut usize, at: CUdeviceptr) {
        let memory = lock(&MEMORY);
        let found = memory.range(..=at).next_back().filter(|(base, allocation)| at - *base < allocation.bytes as u64);
        let (start, allocation) = found.ok_or(INVALID_VALUE)?;
        // Either may be of no interest.
        if !base.is_null() {
            put(base, *start)?;
        }
        if bytes.is_null() { Ok(()) } else { put(bytes, allocation.bytes) }
    }
}
