//! Primary contexts: one per GPU and process, counted. A handle is the ordinal plus one.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{c_int, c_uint};
use std::ptr;
use std::sync::Mutex;

use cudarc::driver::sys::{CUcontext, CUresult};

use crate::device;
use crate::entry::{Answer, put};
use crate::memory;
use crate::script::GPUS_MAX;
use crate::stream;
use crate::table::lock;

#[derive(Clone, Copy)]
struct Primary {
    retained: u32,
    /// The error of work that broke; every call answers it from then on, as long as the process lives.
    lost: Option<CUresult>,
}

static PRIMARIES: Mutex<[Primary; GPUS_MAX as usize]> = Mutex::new([Primary { retained: 0, lost: None }; GPUS_MAX as usize]);
/// Pairs of GPUs: the first may access the second one's memory.
static PEERS: Mutex<BTreeSet<(c_int, c_int)>> = Mutex::new(BTreeSet::new());

thread_local!(static CURRENT: Cell<CUcontext> = const { Cell::new(ptr::null_mut()) });

/// The device of a context that is retained and not lost.
pub fn device_of(context: CUcontext) -> Answer<c_int> {
    let device = context.addr().checked_sub(1).ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
    let primaries = lock(&PRIMARIES);
    match primaries.get(device) {
        Some(Primary { lost: Some(code), .. }) => Err(*code),
        Some(primary) if primary.retained > 0 => Ok(device as c_int),
        _ => Err(CUresult::CUDA_ERROR_INVALID_CONTEXT),
    }
}

pub fn current() -> Answer<c_int> {
    device_of(CURRENT.get())
}

/// An error, if work of this device's context broke.
pub fn alive(device: c_int) -> Answer {
    lock(&PRIMARIES)[device as usize].lost.map_or(Ok(()), Err)
}

pub fn lose(device: c_int, code: CUresult) {
    lock(&PRIMARIES)[device as usize].lost.get_or_insert(code);
}

/// Whether `from` may load from and store to memory of `to`.
pub fn reaches(from: c_int, to: c_int) -> bool {
    from == to || lock(&PEERS).contains(&(from, to))
}

pub fn enable_peer(from: c_int, to: c_int) -> Answer {
    if !device::can_access(from, to)? {
        return Err(CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
    }
    let mut peers = lock(&PEERS);
    if peers.contains(&(from, to)) {
        return Err(CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
    }
    if peers.iter().filter(|peer| peer.0 == from).count() >= device::script()?.peers_max {
        return Err(CUresult::CUDA_ERROR_TOO_MANY_PEERS);
    }
    peers.insert((from, to));
    Ok(())
}

entry_points! {
    fn cuDevicePrimaryCtxRetain(to: *mut CUcontext, device: c_int) {
        device::gpu(device)?;
        lock(&PRIMARIES)[device as usize].retained += 1;
        put(to, ptr::without_provenance_mut(device as usize + 1))
    }

    /// The last release frees all that the context has, as the driver's does.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        device::gpu(device)?;
        let mut primaries = lock(&PRIMARIES);
        let primary = &mut primaries[device as usize];
        primary.retained = primary.retained.checked_sub(1).ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        if primary.retained == 0 {
            drop(primaries);
            lock(&PEERS).retain(|&(from, to)| from != device && to != device);
            memory::free_all(device);
        }
        Ok(())
    }

    fn cuCtxSetCurrent(context: CUcontext) {
        if !context.is_null() {
            device_of(context)?;
        }
        CURRENT.set(context);
        Ok(())
    }

    fn cuCtxGetCurrent(to: *mut CUcontext) {
        put(to, CURRENT.get())
    }

    fn cuCtxGetDevice(to: *mut c_int) {
        put(to, current()?)
    }

    fn cuCtxSynchronize() {
        let device = current()?;
        stream::synchronize_all(device);
        alive(device)
    }

    fn cuCtxEnablePeerAccess(peer: CUcontext, flags: c_uint) {
        if flags != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let (from, to) = (current()?, device_of(peer)?);
        if from == to {
            return Err(CUresult::CUDA_ERROR_INVALID_DEVICE);
        }
        enable_peer(from, to)
    }
}
