//! What one GPU says of itself.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_ulonglong};

use nvml_wrapper_sys::bindings::*;

use crate::machine::{INVALID_ARGUMENT, NOT_SUPPORTED, Return, gpu, index, with};
use crate::out::{INSUFFICIENT_SIZE, put, slice, text};
use crate::script::Gpu;

const MIB: u64 = 1 << 20;

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetIndex(device: nvmlDevice_t, to: *mut c_uint) -> Return {
    gpu(device, "", |view| put(to, view.index as c_uint))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetUUID(device: nvmlDevice_t, to: *mut c_char, size: c_uint) -> Return {
    gpu(device, "", |view| text(to, size, &view.gpu.uuid))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetName(device: nvmlDevice_t, to: *mut c_char, size: c_uint) -> Return {
    gpu(device, "", |view| text(to, size, &view.gpu.name))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, to: *mut nvmlPciInfo_t) -> Return {
    gpu(device, "", |view| put(to, pci_info(view.gpu)))
}

pub fn pci_info(gpu: &Gpu) -> nvmlPciInfo_t {
    let mut info = nvmlPciInfo_t {
        busIdLegacy: [0; 16],
        domain: 0,
        bus: 0,
        device: 0,
        pciDeviceId: 0x2330_10de,
        pciSubSystemId: 0x16c1_10de,
        busId: [0; 32],
    };
    let mut numbers = gpu.pci.split([':', '.']).map(|part| u32::from_str_radix(part, 16).unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (info.domain, info.bus, info.device) = (next(), next(), next());
    text(info.busId.as_mut_ptr(), info.busId.len() as c_uint, &gpu.pci);
    let legacy = gpu.pci.get(gpu.pci.len().saturating_sub(12)..).unwrap_or_default();
    text(info.busIdLegacy.as_mut_ptr(), info.busIdLegacy.len() as c_uint, legacy);
    info
}

/// Begins the GPU's next round.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, to: *mut nvmlMemory_v2_t) -> Return {
    with(|machine| match index(machine, device) {
        Some(index) => {
            machine.gpus[index].rounds += 1;
            crate::machine::OK
        }
        None => INVALID_ARGUMENT,
    });
    gpu(device, "memory", |view| {
        let (total, used) = (view.gpu.memory_mib * MIB, view.now.used_mib * MIB);
        put(to, nvmlMemory_v2_t { version: 2, total, reserved: 0, free: total - used, used })
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, to: *mut nvmlUtilization_t) -> Return {
    gpu(device, "utilisation", |view| put(to, nvmlUtilization_t { gpu: view.now.sm, memory: view.now.memory }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, to: *mut c_uint) -> Return {
    gpu(device, "power", |view| put(to, view.now.power_mw))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTemperature(device: nvmlDevice_t, _sensor: nvmlTemperatureSensors_t, to: *mut c_uint) -> Return {
    gpu(device, "temperature", |view| put(to, view.now.temperature))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetClockInfo(device: nvmlDevice_t, clock: nvmlClockType_t, to: *mut c_uint) -> Return {
    let memory = clock == nvmlClockType_enum_NVML_CLOCK_MEM;
    gpu(device, "clocks", |view| put(to, if memory { 2_619 } else { view.now.sm_mhz }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(device: nvmlDevice_t, to: *mut c_ulonglong) -> Return {
    gpu(device, "throttle", |view| put(to, view.now.throttle))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: nvmlDevice_t,
    kind: nvmlMemoryErrorType_t,
    _counter: nvmlEccCounterType_t,
    to: *mut c_ulonglong,
) -> Return {
    let uncorrected = kind == nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_UNCORRECTED;
    gpu(device, "ecc", |view| put(to, view.now.ecc[usize::from(uncorrected)]))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPcieThroughput(device: nvmlDevice_t, counter: nvmlPcieUtilCounter_t, to: *mut c_uint) -> Return {
    let received = counter == nvmlPcieUtilCounter_enum_NVML_PCIE_UTIL_RX_BYTES;
    gpu(device, "pcie", |view| put(to, view.now.pcie_mib_s[usize::from(received)] * 1024))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    to: *mut nvmlProcessInfo_t,
) -> Return {
    gpu(device, "processes", |view| {
        let processes = &view.now.processes;
        let room = crate::out::take(count).unwrap_or(0) as usize;
        put(count, processes.len() as c_uint);
        if room < processes.len() {
            return INSUFFICIENT_SIZE;
        }
        for (to, process) in slice(to, processes.len()).iter_mut().zip(processes) {
            let bytes = process.mib.map_or(u64::MAX, |mib| mib * MIB);
            *to =
                nvmlProcessInfo_t { pid: process.pid, usedGpuMemory: bytes, gpuInstanceId: u32::MAX, computeInstanceId: u32::MAX };
        }
        crate::machine::OK
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int) -> Return {
    gpu(device, "", |view| {
        put(minor, view.gpu.compute_capability.1);
        put(major, view.gpu.compute_capability.0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMigMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) -> Return {
    gpu(device, "", |view| {
        let Some(mig) = view.gpu.mig else { return NOT_SUPPORTED };
        put(pending, mig.into());
        put(current, mig.into())
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNumaNodeId(device: nvmlDevice_t, to: *mut c_uint) -> Return {
    gpu(device, "", |view| put(to, view.gpu.numa_node))
}

/// Sets these bits of a caller's bit set.
fn bits(place: *mut c_ulong, words: c_uint, first: u32, last: u32) -> Return {
    let words = slice(place, words as usize);
    words.fill(0);
    for bit in first..=last {
        match words.get_mut(bit as usize / 64) {
            Some(word) => *word |= 1 << (bit % 64),
            None => return INSUFFICIENT_SIZE,
        }
    }
    crate::machine::OK
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMemoryAffinity(
    device: nvmlDevice_t,
    words: c_uint,
    to: *mut c_ulong,
    _scope: nvmlAffinityScope_t,
) -> Return {
    gpu(device, "", |view| bits(to, words, view.gpu.numa_node, view.gpu.numa_node))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCpuAffinity(device: nvmlDevice_t, words: c_uint, to: *mut c_ulong) -> Return {
    gpu(device, "", |view| bits(to, words, view.gpu.cpus.0, view.gpu.cpus.1))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCpuAffinityWithinScope(
    device: nvmlDevice_t,
    words: c_uint,
    to: *mut c_ulong,
    _scope: nvmlAffinityScope_t,
) -> Return {
    nvmlDeviceGetCpuAffinity(device, words, to)
}
