//! Named ranges on a profiler's timeline, by NVIDIA's NVTX version 3.
//!
//! NVTX needs no library of its own. A profiler that starts this program names one of its own in `NVTX_INJECTION64_PATH`; that one is
//! loaded, is given tables of function slots, and fills in what it wants to be told. Without the variable nothing is loaded, and a
//! range costs one look at an empty slot.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use libloading::Library;

/// Names the profiler's library.
pub const INJECTION: &str = "NVTX_INJECTION64_PATH";

/// Every function that NVTX 3 knows, by module and callback number; empty where the profiler does not listen. Number 0 is no function.
static SLOTS: [[AtomicPtr<c_void>; ROOM]; MODULES] = [const { [const { AtomicPtr::new(std::ptr::null_mut()) }; ROOM] }; MODULES];

const MODULES: usize = 7;
/// The largest module's functions and the null that ends its table.
const ROOM: usize = 17;
/// Callback numbers in use by module: none, core, CUDA, OpenCL, CUDA runtime, domains, synchronisation.
const CALLBACKS: [usize; MODULES] = [0, 16, 9, 15, 7, 16, 7];

const CORE: usize = 1;
const RANGE_START: usize = 5;
const RANGE_END: usize = 7;

type RangeStart = extern "C" fn(*const c_char) -> u64;
type RangeEnd = extern "C" fn(u64);

/// Lasts on the profiler's timeline until it is dropped; ranges may overlap and end on another thread.
#[derive(Debug, Default)]
pub struct Range(Option<u64>);

impl Range {
    /// Begins now; `name` is asked for only when a profiler listens.
    pub fn begin(name: impl FnOnce() -> String) -> Range {
        attach();
        let start = SLOTS[CORE][RANGE_START].load(Ordering::Acquire);
        if start.is_null() {
            return Range(None);
        }
        // A zero byte would only end the name early.
        let name = CString::new(name().replace('\0', " ")).unwrap_or_default();
        // SAFETY: the profiler put the function of this number and type there, in a library that is never unloaded; it copies the name.
        Range(Some(unsafe { std::mem::transmute::<*mut c_void, RangeStart>(start)(name.as_ptr()) }))
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        let end = SLOTS[CORE][RANGE_END].load(Ordering::Acquire);
        if let (Some(range), false) = (self.0, end.is_null()) {
            // SAFETY: as above; the number is one that the profiler gave for a range that has not ended.
            unsafe { std::mem::transmute::<*mut c_void, RangeEnd>(end)(range) };
        }
    }
}

/// Loads the profiler's library, once, where there is one.
fn attach() {
    static ATTACHED: OnceLock<Option<Library>> = OnceLock::new();
    ATTACHED.get_or_init(|| {
        let path = std::env::var_os(INJECTION).filter(|path| !path.is_empty())?;
        match load(Path::new(&path)) {
            Ok(library) => Some(library),
            Err(why) => {
                tracing::warn!("no NVTX ranges: {INJECTION} is {}, {why}", path.display());
                None
            }
        }
    });
}

fn load(path: &Path) -> Result<Library, String> {
    // SAFETY: the user chose the library for this program, to be loaded in just this way.
    let library = unsafe { Library::new(path) }.map_err(said)?;
    // SAFETY: NVTX fixes the name and the type of this function.
    let start = unsafe { library.get::<Start>(b"InitializeInjectionNvtx2\0") }.map_err(said)?;
    match start(export_table) {
        0 => Err("which refused to start".into()),
        _ => Ok(library),
    }
}

/// What the loader says; the error itself does not repeat it.
fn said(error: libloading::Error) -> String {
    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
}

type Start = extern "C" fn(extern "C" fn(u32) -> *const c_void) -> c_int;

/// The tables that a profiler can ask for, by NVTX's numbers.
extern "C" fn export_table(table: u32) -> *const c_void {
    match table {
        1 => (&raw const FUNCTIONS).cast(),
        3 => (&raw const VERSION).cast(),
        _ => std::ptr::null(),
    }
}

#[repr(C)]
struct Functions {
    bytes: usize,
    of_module: extern "C" fn(c_uint, *mut *const Slot, *mut c_uint) -> c_int,
}

static FUNCTIONS: Functions = Functions { bytes: size_of::<Functions>(), of_module };

#[repr(C)]
struct Version {
    bytes: usize,
    nvtx: u32,
    reserved: u32,
    set_injection_version: extern "C" fn(u32),
}

static VERSION: Version =
    Version { bytes: size_of::<Version>(), nvtx: 3, reserved: 0, set_injection_version: ignore_injection_version };

extern "C" fn ignore_injection_version(_: u32) {}

type Slot = *const AtomicPtr<c_void>;

/// The addresses of a module's slots, where the profiler writes its functions.
struct Tables([[Slot; ROOM]; MODULES]);

// SAFETY: the addresses are those of statics whose content is atomic.
unsafe impl Sync for Tables {}

static TABLES: Tables = {
    let mut tables = [[std::ptr::null(); ROOM]; MODULES];
    let mut module = 1;
    while module < MODULES {
        let mut callback = 1;
        while callback < CALLBACKS[module] {
            tables[module][callback] = &raw const SLOTS[module][callback];
            callback += 1;
        }
        module += 1;
    }
    Tables(tables)
};

/// Says where a module's table is and how long; 0 for a module that is not known here.
extern "C" fn of_module(module: c_uint, table: *mut *const Slot, length: *mut c_uint) -> c_int {
    let module = module as usize;
    if module == 0 || module >= MODULES {
        return 0;
    }
    // SAFETY: both are the caller's own variables, or null.
    unsafe {
        if !table.is_null() {
            *table = TABLES.0[module].as_ptr();
        }
        if !length.is_null() {
            *length = CALLBACKS[module] as c_uint + 1;
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_a_table_that_a_null_ends() {
        for (module, &callbacks) in CALLBACKS.iter().enumerate().skip(1) {
            let (mut table, mut length) = (std::ptr::null(), 0);
            assert_eq!(of_module(module as c_uint, &raw mut table, &raw mut length), 1);
            // SAFETY: the table is a static of this length.
            let slots = unsafe { std::slice::from_raw_parts(table, length as usize) };
            assert_eq!(slots.len(), callbacks + 1);
            assert!(slots[0].is_null() && slots[callbacks].is_null());
            assert!(slots[1..callbacks].iter().all(|slot| !slot.is_null()));
        }
        assert_eq!(of_module(7, std::ptr::null_mut(), std::ptr::null_mut()), 0);
    }

    #[test]
    fn without_a_profiler_a_name_is_never_made() {
        assert!(Range::begin(|| panic!("no profiler listens")).0.is_none());
    }

    #[test]
    fn what_is_no_profiler_is_refused_with_the_reason() {
        assert!(load(Path::new("/nowhere/libnvtx.so")).unwrap_err().contains("/nowhere/libnvtx.so"));
        assert!(load(Path::new("libc.so.6")).unwrap_err().contains("InitializeInjectionNvtx2"));
    }
}
