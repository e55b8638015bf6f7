//! Memory and events of other processes. A handle is the name of shared memory.

use std::ffi::{c_char, c_uint};

use cudarc::driver::sys::{CUdeviceptr, CUevent, CUipcEventHandle, CUipcMemHandle, CUresult};

use crate::context::{self, current};
use crate::device;
use crate::entry::{Answer, put};
use crate::event::{EVENTS, Event};
use crate::memory::{Allocation, MEMORY};
use crate::shm::{Mapping, Name};
use crate::stream;
use crate::table::lock;

const INVALID_HANDLE: CUresult = CUresult::CUDA_ERROR_INVALID_HANDLE;
const INVALID_VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// What a handle's first bytes are, so that garbage is told from a handle.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Kind {
    Memory = 0x4d45_4d0f_a6ec_0da1,
    Event = 0x4556_450f_a6ec_0da1,
}

fn pack(kind: Kind, name: Name, bytes: usize) -> [c_char; 64] {
    let words = [kind as u64, u64::from(name.gpu), u64::from(name.pid), name.start, name.sequence, bytes as u64, 0, 0];
    let mut packed = [0; 64];
    for (place, byte) in packed.iter_mut().zip(words.iter().flat_map(|word| word.to_le_bytes())) {
        *place = byte.cast_signed();
    }
    packed
}

fn unpack(kind: Kind, packed: [c_char; 64]) -> Answer<(Name, usize)> {
    let bytes = packed.map(c_char::cast_unsigned);
    let word = |i: usize| bytes[8 * i..8 * i + 8].iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    if word(0) != kind as u64 {
        return Err(INVALID_HANDLE);
    }
    let (gpu, pid) = (word(1) as u32, word(2) as u32);
    Ok((Name { gpu, pid, start: word(3), sequence: word(4) }, word(5) as usize))
}

entry_points! {
    fn cuIpcGetMemHandle(to: *mut CUipcMemHandle, at: CUdeviceptr) {
        let memory = lock(&MEMORY);
        let allocation = memory.get(&at).filter(|allocation| allocation.imports == 0).ok_or(INVALID_VALUE)?;
        if device::script()?.expandable {
            return Err(INVALID_VALUE);
        }
        put(to, CUipcMemHandle { reserved: pack(Kind::Memory, allocation.name, allocation.bytes()) })
    }

    fn cuIpcOpenMemHandle_v2(to: *mut CUdeviceptr, handle: CUipcMemHandle, flags: c_uint) {
        let device = current()?;
        let (name, bytes) = unpack(Kind::Memory, handle.reserved)?;
        if name.pid == std::process::id() {
            return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        if device::gpu(device)? != name.gpu {
            let owner = (0..device::count() as i32).find(|&other| device::gpu(other) == Ok(name.gpu)).ok_or(INVALID_VALUE)?;
            // The one flag that exists.
            if flags & 1 == 0 {
                return Err(INVALID_VALUE);
            }
            match context::enable_peer(device, owner) {
                Ok(()) | Err(CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED) => {}
                other => return other,
            }
        }
        let mut memory = lock(&MEMORY);
        if let Some(open) = memory.values_mut().find(|open| open.name == name && open.device == device) {
            open.imports += 1;
            return put(to, open.base());
        }
        let mapping = Mapping::open(name, bytes).map_err(|_| INVALID_VALUE)?;
        let allocation = Allocation::new(device, name, 1, mapping)?;
        let base = allocation.base();
        memory.insert(base, allocation);
        put(to, base)
    }

    fn cuIpcCloseMemHandle(at: CUdeviceptr) {
        let device = lock(&MEMORY).get(&at).filter(|allocation| allocation.imports > 0).ok_or(INVALID_VALUE)?.device;
        stream::synchronize_all(device);
        let mut memory = lock(&MEMORY);
        match memory.get_mut(&at) {
            Some(allocation) if allocation.imports > 1 => allocation.imports -= 1,
            _ => drop(memory.remove(&at)),
        }
        Ok(())
    }

    fn cuIpcGetEventHandle(to: *mut CUipcEventHandle, event: CUevent) {
        let event = EVENTS.get(event)?;
        let name = event.name().ok_or(INVALID_HANDLE)?;
        put(to, CUipcEventHandle { reserved: pack(Kind::Event, name, 0) })
    }

    fn cuIpcOpenEventHandle(to: *mut CUevent, handle: CUipcEventHandle) {
        let (name, _) = unpack(Kind::Event, handle.reserved)?;
        put(to, EVENTS.add(Event::open(current()?, name)?))
    }
}
