//! Event sets: Xid errors.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::*;

use crate::machine::{INVALID_ARGUMENT, OK, Return, UNINITIALIZED, gpu, handle, with};
use crate::out::put;

const XID: c_ulonglong = nvmlEventTypeXidCriticalError as c_ulonglong;
const TIMEOUT: Return = nvmlReturn_enum_NVML_ERROR_TIMEOUT;

/// A set holds the GPUs that were registered with it, as bits.
type Set = u32;

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetCreate(to: *mut nvmlEventSet_t) -> Return {
    put(to, Box::into_raw(Box::<Set>::default()).cast())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> Return {
    if set.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: NVML's contract: the handle came from `nvmlEventSetCreate`, and the caller does not use it after this.
    drop(unsafe { Box::from_raw(set.cast::<Set>()) });
    OK
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, to: *mut c_ulonglong) -> Return {
    gpu(device, "events", |_| put(to, XID))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceRegisterEvents(device: nvmlDevice_t, types: c_ulonglong, set: nvmlEventSet_t) -> Return {
    gpu(device, "events", |view| {
        if types & XID != 0 {
            let Some(before) = crate::out::take(set.cast::<Set>()) else { return INVALID_ARGUMENT };
            view.state.events = true;
            return put(set.cast::<Set>(), before | 1 << view.index);
        }
        OK
    })
}

/// Never waits: what is to come, comes with a round, and the caller's own reading begins it.
#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetWait_v2(set: nvmlEventSet_t, to: *mut nvmlEventData_t, _timeout_ms: c_uint) -> Return {
    let Some(set) = crate::out::take(set.cast::<Set>()) else { return INVALID_ARGUMENT };
    let answer = with(|machine| {
        for (index, (gpu, state)) in machine.script.gpus.iter().zip(&mut machine.gpus).enumerate() {
            let Some(xid) = gpu.xid.filter(|xid| set & 1 << index != 0 && !state.xid_told && state.rounds >= xid.round) else {
                continue;
            };
            state.xid_told = true;
            return put(
                to,
                nvmlEventData_t {
                    device: handle(index),
                    eventType: XID,
                    eventData: xid.code,
                    gpuInstanceId: u32::MAX,
                    computeInstanceId: u32::MAX,
                },
            );
        }
        TIMEOUT
    });
    debug_assert_ne!(answer, UNINITIALIZED, "an event set outlived the library");
    answer
}
