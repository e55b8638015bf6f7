//! The library as a whole, and how a GPU is found.

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_NOT_FOUND};

use crate::machine::{self, INVALID_ARGUMENT, Machine, Return, with};
use crate::out::{put, said, text};

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> Return {
    machine::init()
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> Return {
    machine::init()
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> Return {
    machine::shutdown()
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetDriverVersion(to: *mut c_char, size: c_uint) -> Return {
    with(|machine| text(to, size, &machine.script.driver))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetNVMLVersion(to: *mut c_char, size: c_uint) -> Return {
    with(|machine| text(to, size, &format!("13.{}", machine.script.driver)))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetCudaDriverVersion_v2(to: *mut c_int) -> Return {
    with(|_| put(to, 13_000))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCount_v2(to: *mut c_uint) -> Return {
    with(|machine| put(to, machine.script.gpus.len() as c_uint))
}

/// A GPU that is lost has no handle to give.
fn found(machine: &Machine, index: Option<usize>, to: *mut nvmlDevice_t) -> Return {
    let Some(index) = index else { return nvmlReturn_enum_NVML_ERROR_NOT_FOUND };
    let lost = machine.script.gpus[index].lost_after.is_some_and(|rounds| machine.gpus[index].rounds > rounds);
    if lost { machine::LOST } else { put(to, machine::handle(index)) }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, to: *mut nvmlDevice_t) -> Return {
    with(|machine| match index as usize {
        index if index < machine.script.gpus.len() => found(machine, Some(index), to),
        _ => INVALID_ARGUMENT,
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, to: *mut nvmlDevice_t) -> Return {
    let Some(uuid) = said(uuid) else { return INVALID_ARGUMENT };
    with(|machine| found(machine, machine.script.gpus.iter().position(|gpu| gpu.uuid == uuid), to))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(bus_id: *const c_char, to: *mut nvmlDevice_t) -> Return {
    let Some(bus_id) = said(bus_id).map(|id| id.to_uppercase()) else { return INVALID_ARGUMENT };
    with(|machine| found(machine, machine.script.gpus.iter().position(|gpu| gpu.pci.to_uppercase().ends_with(&bus_id)), to))
}
