//! Kernels cannot run here. The three of `kernels/kv_copy.cu` do one thing, copying a list of byte ranges, and are done on the CPU instead:
//! what is tested with them is what the program makes around them (lists, staging, order), not their code.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use cudarc::driver::sys::{CUdeviceptr, CUfunction, CUjit_option, CUmodule, CUresult, CUstream, CUuuid};

use crate::context::{current, reaches};
use crate::entry::{Answer, list, put};
use crate::memory::{Piece, find};
use crate::stream::{self, Work};
use crate::table::Table;

const KNOWN: [&CStr; 3] = [c"kv_gather", c"kv_scatter", c"kv_peer_store"];
/// What the file begins with that nvcc makes for several chips.
const FATBIN: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();
const ILLEGAL_ADDRESS: CUresult = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
/// An image ends with a 0 somewhere, unless it is no image.
const IMAGE_BYTES_MAX: usize = 16 << 20;

static MODULES: Table<Module> = Table::new();
static FUNCTIONS: Table<Function> = Table::new();

struct Module {
    device: c_int,
    kernels: Vec<&'static CStr>,
}

struct Function {
    device: c_int,
}

/// The arguments of a launch, as README.md of the kernels has them.
pub struct Launch {
    source: CUdeviceptr,
    target: CUdeviceptr,
    ranges: CUdeviceptr,
    count: u64,
    bytes: u64,
    tile_bytes: u64,
}

/// One record of the list.
#[derive(Clone, Copy)]
#[repr(C)]
struct ByteRange {
    source: u64,
    target: u64,
    begin: u64,
}

impl Launch {
    /// On the stream's thread. What a kernel would do wrong on a GPU is an illegal address here.
    pub fn run(&self, device: c_int) -> Answer {
        let ranges = self.read_ranges(device)?;
        let ends = ranges.iter().skip(1).map(|range| range.begin).chain([self.bytes]);
        for (range, end) in ranges.iter().zip(ends) {
            let bytes = end.checked_sub(range.begin).ok_or(ILLEGAL_ADDRESS)? as usize;
            if bytes > 0 {
                let from = reached(device, self.source.wrapping_add(range.source), bytes)?;
                let to = reached(device, self.target.wrapping_add(range.target), bytes)?;
                // SAFETY: both pieces have that many bytes, and stay mapped.
                unsafe { ptr::copy(from.at(), to.at(), bytes) };
            }
        }
        Ok(())
    }

    fn read_ranges(&self, device: c_int) -> Answer<Vec<ByteRange>> {
        if self.count == 0 {
            return if self.bytes == 0 { Ok(Vec::new()) } else { Err(ILLEGAL_ADDRESS) };
        }
        let bytes = self.count as usize * size_of::<ByteRange>();
        let list = reached(device, self.ranges, bytes)?;
        let mut ranges = vec![ByteRange { source: 0, target: 0, begin: 0 }; self.count as usize];
        // SAFETY: both have that many bytes, and any bytes are valid numbers.
        unsafe { ptr::copy_nonoverlapping(list.at(), ranges.as_mut_ptr().cast(), bytes) };
        if ranges[0].begin == 0 { Ok(ranges) } else { Err(ILLEGAL_ADDRESS) }
    }
}

/// Memory that a kernel on `device` can address.
fn reached(device: c_int, at: CUdeviceptr, bytes: usize) -> Answer<Piece> {
    find(at, bytes).ok().filter(|piece| reaches(device, piece.device)).ok_or(ILLEGAL_ADDRESS)
}

/// The bytes of an image that comes without its length: text up to its 0, or an ELF file by its header.
fn image<'a>(at: *const c_void) -> Answer<&'a [u8]> {
    const ELF: &[u8] = b"\x7fELF";
    const ELF_HEADER_BYTES: usize = 64;
    let at = at.cast::<u8>();
    if list(at, 1)? == [0] || list(at, ELF.len())? != ELF {
        let len = (0..IMAGE_BYTES_MAX).find(|&i| {
            // SAFETY: the contract of the call: text that ends with a 0, which has not come yet.
            unsafe { *at.add(i) == 0 }
        });
        return list(at, len.ok_or(CUresult::CUDA_ERROR_INVALID_IMAGE)?);
    }
    let header = list(at, ELF_HEADER_BYTES)?;
    let number =
        |range: std::ops::Range<usize>| header[range].iter().rev().fold(0usize, |number, &byte| number << 8 | usize::from(byte));
    let (programs, sections) = (number(32..40), number(40..48));
    let end = (programs + number(54..56) * number(56..58)).max(sections + number(58..60) * number(60..62));
    if end > IMAGE_BYTES_MAX {
        return Err(CUresult::CUDA_ERROR_INVALID_IMAGE);
    }
    list(at, end)
}

fn load(to: *mut CUmodule, at: *const c_void) -> Answer {
    let device = current()?;
    // A fatbin is compressed: whether these are in it cannot be seen, so it is trusted.
    if list(at.cast::<u8>(), FATBIN.len())? == FATBIN {
        return put(to, MODULES.add(Module { device, kernels: KNOWN.to_vec() }));
    }
    let image = image(at)?;
    let holds = |name: &&CStr| image.windows(name.count_bytes()).any(|window| window == name.to_bytes());
    let kernels: Vec<_> = KNOWN.into_iter().filter(holds).collect();
    if kernels.is_empty() {
        return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
    put(to, MODULES.add(Module { device, kernels }))
}

entry_points! {
    /// NVRTC asks the driver for undocumented tables, and takes no for an answer; that this function is missing it does not expect.
    fn cuGetExportTable(_table: *mut *const c_void, _id: *const CUuuid) {
        Err(CUresult::CUDA_ERROR_NOT_FOUND)
    }

    fn cuModuleLoadData(to: *mut CUmodule, image: *const c_void) {
        load(to, image)
    }

    fn cuModuleLoadDataEx(to: *mut CUmodule, image: *const c_void, _count: c_uint, _options: *mut CUjit_option, _values: *mut *mut c_void) {
        load(to, image)
    }

    fn cuModuleUnload(module: CUmodule) {
        MODULES.remove(module).map(drop)
    }

    fn cuModuleGetFunction(to: *mut CUfunction, module: CUmodule, name: *const c_char) {
        let module = MODULES.get(module)?;
        // SAFETY: the contract of the call: a C string.
        let name = unsafe { CStr::from_ptr(name) };
        if !module.kernels.contains(&name) {
            return Err(CUresult::CUDA_ERROR_NOT_FOUND);
        }
        put(to, FUNCTIONS.add(Function { device: module.device }))
    }

    fn cuLaunchKernel(
        function: CUfunction,
        blocks_x: c_uint,
        blocks_y: c_uint,
        blocks_z: c_uint,
        threads_x: c_uint,
        threads_y: c_uint,
        threads_z: c_uint,
        _shared_bytes: c_uint,
        stream: CUstream,
        arguments: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        const ARGUMENTS: usize = 6;
        let (function, stream) = (FUNCTIONS.get(function)?, stream::get(stream)?);
        let threads = threads_x.saturating_mul(threads_y).saturating_mul(threads_z);
        let shape_fits = [blocks_x, blocks_y, blocks_z].iter().all(|&n| n > 0) && (1..=1024).contains(&threads);
        if function.device != stream.device || !shape_fits || !extra.is_null() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let places = list(arguments.cast_const(), ARGUMENTS)?;
        let mut values = [0u64; ARGUMENTS];
        for (value, place) in values.iter_mut().zip(places) {
            *value = list(place.cast::<u64>().cast_const(), 1)?[0];
        }
        let [source, target, ranges, count, bytes, tile_bytes] = values;
        let launch = Launch { source, target, ranges, count, bytes, tile_bytes };
        if launch.tile_bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        stream.queue(Work::Launch(launch))
    }
}
