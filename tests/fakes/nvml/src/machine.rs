//! The GPUs while the library is initialised.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nvml_wrapper_sys::bindings::*;

use crate::script::{GPUS_MAX, Gpu, Now, Script};

pub type Return = nvmlReturn_t;

pub const OK: Return = nvmlReturn_enum_NVML_SUCCESS;
pub const UNINITIALIZED: Return = nvmlReturn_enum_NVML_ERROR_UNINITIALIZED;
pub const INVALID_ARGUMENT: Return = nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
pub const NOT_SUPPORTED: Return = nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
pub const LOST: Return = nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST;

pub struct Machine {
    pub script: Script,
    pub gpus: Vec<State>,
    pub since: Instant,
    inits: u32,
}

/// What changes about a GPU.
#[derive(Clone, Copy, Default)]
pub struct State {
    /// Rounds that were begun.
    pub rounds: u64,
    pub events: bool,
    pub xid_told: bool,
}

static MACHINE: Mutex<Option<Machine>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Machine>> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn init() -> Return {
    let mut slot = lock();
    if let Some(machine) = slot.as_mut() {
        machine.inits += 1;
        return OK;
    }
    let script = match read() {
        Ok(script) => script,
        Err(why) => {
            eprintln!("fake NVML: {why}");
            return nvmlReturn_enum_NVML_ERROR_UNKNOWN;
        }
    };
    if script.init_error != 0 {
        return script.init_error;
    }
    let gpus = vec![State::default(); script.gpus.len()];
    *slot = Some(Machine { script, gpus, since: Instant::now(), inits: 1 });
    OK
}

pub fn shutdown() -> Return {
    let mut slot = lock();
    match slot.as_mut() {
        None => return UNINITIALIZED,
        Some(machine) if machine.inits > 1 => machine.inits -= 1,
        Some(_) => *slot = None,
    }
    OK
}

fn read() -> Result<Script, String> {
    let text = match std::env::var("FAKE_NVML") {
        Ok(text) if text.trim_start().starts_with('{') => text,
        Ok(path) => std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?,
        Err(_) => match folder().map(|folder| folder.join("nvml.json")).filter(|path| path.exists()) {
            Some(path) => std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?,
            None => "{}".to_string(),
        },
    };
    let mut script: Script = serde_json::from_str(&text).map_err(|error| format!("the script: {error}"))?;
    if script.gpus.len() > GPUS_MAX {
        return Err(format!("{} GPUs; at most {GPUS_MAX}", script.gpus.len()));
    }
    for (i, gpu) in script.gpus.iter_mut().enumerate() {
        if gpu.uuid.is_empty() {
            gpu.uuid = format!("GPU-00000000-0000-0000-0000-{i:012x}");
        }
        if gpu.pci.is_empty() {
            gpu.pci = format!("00000000:{:02X}:00.0", 0x10 + i);
        }
    }
    Ok(script)
}

#[repr(C)]
struct DlInfo {
    file: *const c_char,
    base: *mut c_void,
    symbol: *const c_char,
    address: *mut c_void,
}

// SAFETY: the signature is the C library's own.
unsafe extern "C" {
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
}

/// The folder this library was loaded from.
fn folder() -> Option<PathBuf> {
    let mut info =
        DlInfo { file: std::ptr::null(), base: std::ptr::null_mut(), symbol: std::ptr::null(), address: std::ptr::null_mut() };
    // SAFETY: the address is of a static in this library, and `info` is a valid place for the answer.
    let found = unsafe { dladdr((&raw const MACHINE).cast(), &mut info) };
    if found == 0 || info.file.is_null() {
        return None;
    }
    // SAFETY: dladdr answered with a path that ends in 0 and lives as long as the library is loaded.
    let file = unsafe { CStr::from_ptr(info.file) };
    PathBuf::from(file.to_str().ok()?).parent().map(PathBuf::from)
}

pub fn with(call: impl FnOnce(&mut Machine) -> Return) -> Return {
    lock().as_mut().map_or(UNINITIALIZED, call)
}

/// One GPU for one call.
pub struct View<'a> {
    pub index: usize,
    pub gpu: &'a Gpu,
    pub state: &'a mut State,
    pub now: Now,
    pub seconds: f64,
}

/// Answers a call about one GPU, unless it is lost or does not support calls of this group.
pub fn gpu(handle: nvmlDevice_t, group: &str, call: impl FnOnce(View<'_>) -> Return) -> Return {
    with(|machine| {
        let Some(index) = index(machine, handle) else { return INVALID_ARGUMENT };
        let gpu = &machine.script.gpus[index];
        let state = &mut machine.gpus[index];
        if gpu.lost_after.is_some_and(|rounds| state.rounds > rounds) {
            return LOST;
        }
        if gpu.unsupported.iter().any(|name| name == group) {
            return NOT_SUPPORTED;
        }
        let now = now(gpu, state.rounds);
        call(View { index, gpu, state, now, seconds: machine.since.elapsed().as_secs_f64() })
    })
}

fn now(gpu: &Gpu, rounds: u64) -> Now {
    let mut left = rounds.saturating_sub(1);
    let mut current = None;
    for phase in &gpu.phases {
        current = Some(phase);
        if phase.rounds == 0 || left < phase.rounds {
            break;
        }
        left -= phase.rounds;
    }
    current.cloned().unwrap_or_default().now(gpu.memory_mib)
}

/// Handles count from 1, so that none is null.
pub fn handle(index: usize) -> nvmlDevice_t {
    std::ptr::without_provenance_mut(index + 1)
}

pub fn index(machine: &Machine, handle: nvmlDevice_t) -> Option<usize> {
    handle.addr().checked_sub(1).filter(|&index| index < machine.script.gpus.len())
}
