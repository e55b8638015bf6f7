//! Copies and fills: checked when queued, done by the stream.

use std::ffi::{c_uchar, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::sys::{CUcontext, CUdeviceptr, CUmemcpyAttributes, CUmemcpySrcAccessOrder, CUresult, CUstream};

use crate::context::{device_of, reaches};
use crate::device;
use crate::entry::{Answer, list, put};
use crate::host::is_pinned;
use crate::memory::{Piece, find};
use crate::script::Does;
use crate::stream::{self, Copy, Place, Stream, Work};

const INVALID_VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
/// What a copy that breaks while it runs is reported as.
const BROKEN: CUresult = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;

/// What the script has in mind for the copy that is queued now.
fn fault() -> Answer<Option<Does>> {
    static COPIES: AtomicU64 = AtomicU64::new(0);
    Ok(device::script()?.fault(COPIES.fetch_add(1, Ordering::Relaxed) + 1))
}

/// A single copy, with its fault.
fn queue(stream: &Stream, to: Place, from: Place, bytes: usize) -> Answer {
    match fault()? {
        None => stream.queue(Work::Copies(vec![Copy { to, from, bytes }])),
        Some(Does::Break) => stream.queue(Work::Break(BROKEN)),
        Some(Does::Refuse | Does::RefuseRange(_)) => Err(INVALID_VALUE),
    }
}

/// The arguments of a batch that both forms of the call have.
struct Batch {
    to: *const CUdeviceptr,
    from: *const CUdeviceptr,
    bytes: *const usize,
    count: usize,
    attributes: *const CUmemcpyAttributes,
    attributes_from: *const usize,
    attributes_count: usize,
}

impl Batch {
    /// The answer, and which range it is about.
    fn queue(&self, stream: CUstream) -> (Answer, usize) {
        let mut at = usize::MAX;
        let answer = self.queue_ranges(stream, &mut at);
        (answer, if answer.is_err() { at } else { usize::MAX })
    }

    fn queue_ranges(&self, stream: CUstream, at: &mut usize) -> Answer {
        let stream = stream::get(stream)?;
        // One set of attributes for all is what is used; more would need their own test here.
        let attributes = list(self.attributes, self.attributes_count)?;
        let [CUmemcpyAttributes { srcAccessOrder: CUmemcpySrcAccessOrder::CU_MEMCPY_SRC_ACCESS_ORDER_STREAM, flags: 0, .. }] =
            attributes
        else {
            return Err(INVALID_VALUE);
        };
        if stream.is_default() || self.count == 0 || list(self.attributes_from, 1)? != [0] {
            return Err(INVALID_VALUE);
        }
        let (to, from, sizes) = (list(self.to, self.count)?, list(self.from, self.count)?, list(self.bytes, self.count)?);
        let reachable = |piece: &Piece| reaches(stream.device, piece.device);
        let mut ranges = Vec::new();
        for (i, ((&to, &from), &bytes)) in to.iter().zip(from).zip(sizes).enumerate() {
            *at = i;
            let (to, from) = (find(to, bytes)?, find(from, bytes)?);
            if bytes == 0 || !reachable(&to) || !reachable(&from) {
                return Err(INVALID_VALUE);
            }
            ranges.push(Copy { to: Place::Device(to), from: Place::Device(from), bytes });
        }
        *at = usize::MAX;
        match fault()? {
            None => stream.queue(Work::Copies(ranges)),
            Some(Does::Refuse) => Err(INVALID_VALUE),
            Some(Does::RefuseRange(range)) => {
                *at = range.min(ranges.len() - 1);
                ranges.truncate(*at);
                stream.queue(Work::Copies(ranges))?;
                Err(INVALID_VALUE)
            }
            // The first half arrives.
            Some(Does::Break) => {
                ranges.truncate(ranges.len() / 2);
                stream.queue(Work::Copies(ranges))?;
                stream.queue(Work::Break(BROKEN))
            }
        }
    }
}

entry_points! {
    fn cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream) {
        let stream = stream::get(stream)?;
        queue(&stream, Place::Device(find(to, bytes)?), Place::Device(find(from, bytes)?), bytes)
    }

    fn cuMemcpyPeerAsync(to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize, stream: CUstream) {
        let stream = stream::get(stream)?;
        let (to, from) = (find(to, bytes)?, find(from, bytes)?);
        if to.device != device_of(to_context)? || from.device != device_of(from_context)? {
            return Err(INVALID_VALUE);
        }
        queue(&stream, Place::Device(to), Place::Device(from), bytes)
    }

    fn cuMemcpyBatchAsync(
        to: *mut CUdeviceptr,
        from: *mut CUdeviceptr,
        bytes: *mut usize,
        count: usize,
        attributes: *mut CUmemcpyAttributes,
        attributes_from: *mut usize,
        attributes_count: usize,
        failed: *mut usize,
        stream: CUstream,
    ) {
        if device::script()?.driver < 12_080 {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let (answer, at) = Batch { to, from, bytes, count, attributes, attributes_from, attributes_count }.queue(stream);
        put(failed, at)?;
        answer
    }

    fn cuMemcpyBatchAsync_v2(
        to: *mut CUdeviceptr,
        from: *mut CUdeviceptr,
        bytes: *mut usize,
        count: usize,
        attributes: *mut CUmemcpyAttributes,
        attributes_from: *mut usize,
        attributes_count: usize,
        stream: CUstream,
    ) {
        if device::script()?.driver < 13_000 {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        Batch { to, from, bytes, count, attributes, attributes_from, attributes_count }.queue(stream).0
    }

    /// From memory that is not pinned, the driver takes the bytes before it returns.
    fn cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream) {
        let stream = stream::get(stream)?;
        let from = match is_pinned(from, bytes) {
            true => Place::Host(from.cast::<u8>().cast_mut()),
            false => Place::Taken(list(from.cast::<u8>(), bytes)?.to_vec()),
        };
        queue(&stream, Place::Device(find(to, bytes)?), from, bytes)
    }

    /// To memory that is not pinned, the driver copies before it returns.
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream) {
        let stream = stream::get(stream)?;
        queue(&stream, Place::Host(to.cast()), Place::Device(find(from, bytes)?), bytes)?;
        if !is_pinned(to, bytes) {
            stream.synchronize();
        }
        Ok(())
    }

    fn cuMemsetD8Async(to: CUdeviceptr, value: c_uchar, bytes: usize, stream: CUstream) {
        stream::get(stream)?.queue(Work::Fill { to: find(to, bytes)?, value, bytes })
    }
}
