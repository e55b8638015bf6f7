//! Pinned memory of the host: known by address, so that copies from and to other memory can be told apart.

use std::collections::BTreeMap;
use std::ffi::{c_uint, c_void};
use std::sync::Mutex;

use cudarc::driver::sys::CUresult;

use crate::context::current;
use crate::entry::put;
use crate::shm::Mapping;
use crate::table::lock;

/// By address.
static PINNED: Mutex<BTreeMap<usize, Mapping>> = Mutex::new(BTreeMap::new());

pub fn is_pinned(at: *const c_void, bytes: usize) -> bool {
    let pinned = lock(&PINNED);
    pinned.range(..=at.addr()).next_back().is_some_and(|(base, mapping)| at.addr() - base + bytes <= mapping.bytes())
}

entry_points! {
    fn cuMemHostAlloc(to: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        current()?;
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let mapping = Mapping::private(bytes).map_err(|_| CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        let at = mapping.at();
        lock(&PINNED).insert(at.addr(), mapping);
        put(to, at.cast())
    }

    fn cuMemFreeHost(at: *mut c_void) {
        lock(&PINNED).remove(&at.addr()).map(drop).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}
