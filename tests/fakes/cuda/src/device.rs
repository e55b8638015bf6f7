//! The virtual GPUs. In the machine they are numbered as NVML does; to a process they have ordinals, in the script's order and as
//! `CUDA_VISIBLE_DEVICES` chooses.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys::{CUdevice_attribute, CUresult, CUuuid, cudaError_enum};

use crate::entry::{Answer, put, put_text};
use crate::script::Script;
use crate::shm;

const INVALID_DEVICE: CUresult = cudaError_enum::CUDA_ERROR_INVALID_DEVICE;

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// The GPU's number in the machine, for each ordinal.
fn visible() -> &'static [u32] {
    static VISIBLE: OnceLock<Vec<u32>> = OnceLock::new();
    VISIBLE.get_or_init(|| {
        let all = Script::get().map_or(Vec::new(), |script| script.order.clone());
        let Ok(chosen) = std::env::var("CUDA_VISIBLE_DEVICES") else { return all };
        let find = |word: &str| match word.parse::<usize>() {
            Ok(ordinal) => all.get(ordinal).copied(),
            Err(_) => all.iter().copied().find(|&gpu| uuid_text(gpu) == word),
        };
        // As the driver does: the list ends at the first word that names no GPU.
        chosen.split(',').map_while(|word| find(word.trim())).collect()
    })
}

fn uuid(gpu: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&gpu.to_be_bytes());
    bytes
}

fn uuid_text(gpu: u32) -> String {
    format!("GPU-00000000-0000-0000-0000-{gpu:012x}")
}

pub fn script() -> Answer<&'static Script> {
    if !INITIALISED.load(Ordering::Acquire) {
        return Err(CUresult::CUDA_ERROR_NOT_INITIALIZED);
    }
    Script::get().map_err(|_| CUresult::CUDA_ERROR_UNKNOWN)
}

pub fn count() -> usize {
    visible().len()
}

/// The number in the machine of a process's device.
pub fn gpu(device: c_int) -> Answer<u32> {
    script()?;
    usize::try_from(device).ok().and_then(|ordinal| visible().get(ordinal)).copied().ok_or(INVALID_DEVICE)
}

pub fn can_access(from: c_int, to: c_int) -> Answer<bool> {
    Ok(gpu(from)? != gpu(to)? && script()?.peers)
}

entry_points! {
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let script = Script::get().map_err(|why| {
            eprintln!("fake CUDA: {why}");
            CUresult::CUDA_ERROR_UNKNOWN
        })?;
        if script.gpus == 0 || visible().is_empty() {
            return Err(CUresult::CUDA_ERROR_NO_DEVICE);
        }
        if !INITIALISED.swap(true, Ordering::AcqRel) {
            shm::sweep();
            // SAFETY: the function stays loaded as long as the process: the driver is never unloaded.
            unsafe { libc::atexit(shm::remove_own) };
        }
        Ok(())
    }

    fn cuDriverGetVersion(version: *mut c_int) {
        put(version, Script::get().map_err(|_| CUresult::CUDA_ERROR_UNKNOWN)?.driver)
    }

    fn cuDeviceGetCount(to: *mut c_int) {
        script()?;
        put(to, count() as c_int)
    }

    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        gpu(ordinal)?;
        put(device, ordinal)
    }

    fn cuDeviceGetName(to: *mut c_char, size: c_int, device: c_int) {
        put_text(to, size, &format!("Virtual GPU {}", gpu(device)?))
    }

    fn cuDeviceGetUuid_v2(to: *mut CUuuid, device: c_int) {
        put(to, CUuuid { bytes: uuid(gpu(device)?).map(u8::cast_signed) })
    }

    fn cuDeviceGetPCIBusId(to: *mut c_char, size: c_int, device: c_int) {
        put_text(to, size, &format!("0000:{:02X}:00.0", 0x10 + gpu(device)?))
    }

    fn cuDeviceTotalMem_v2(to: *mut usize, device: c_int) {
        gpu(device)?;
        put(to, script()?.memory_bytes() as usize)
    }

    fn cuDeviceGetAttribute(to: *mut c_int, attribute: CUdevice_attribute, device: c_int) {
        use CUdevice_attribute::*;
        gpu(device)?;
        put(to, match attribute {
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => 9,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => 0,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => 132,
            CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK => 1024,
            CU_DEVICE_ATTRIBUTE_WARP_SIZE => 32,
            CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT => 3,
            CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING => 1,
            _ => 0,
        })
    }

    fn cuDeviceCanAccessPeer(to: *mut c_int, from: c_int, peer: c_int) {
        put(to, c_int::from(can_access(from, peer)?))
    }
}
