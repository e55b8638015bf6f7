//! Work in order: copies, fills and launches of one stream run one after the other, and streams run beside each other.

use std::ptr;

use cudarc::driver::sys::{
    self, CUmemLocation, CUmemLocationType, CUmemcpyAttributes, CUmemcpySrcAccessOrder, CUresult, CUstream_flags,
};

use super::context::Context;
use super::driver::BatchCopies;
use super::error::{CudaCode, CudaError, check, log_failure};
use super::event::Event;
use super::memory::DeviceSpan;
use super::pinned::PinnedMemory;

/// The driver is given at most so many ranges at once, which bounds the lists made for it (24 bytes a range) and how long one call takes.
const BATCH_RANGES_MAX: usize = 8192;

/// Never the default stream, which waits for all others and which the batch call refuses.
#[derive(Debug)]
pub struct Stream {
    context: Context,
    handle: sys::CUstream,
}

// SAFETY: the driver allows any thread to use a stream, and synchronises itself.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// One copy of a batch.
#[derive(Clone, Copy, Debug)]
pub struct CopyRange<'m> {
    pub to: DeviceSpan<'m>,
    pub from: DeviceSpan<'m>,
}

impl Stream {
    pub(super) fn create(context: &Context) -> Result<Stream, CudaError> {
        let mut handle = ptr::null_mut();
        context.bind()?;
        // SAFETY: a context is current, and `handle` outlives the call.
        let result = unsafe { sys::cuStreamCreate(&mut handle, CUstream_flags::CU_STREAM_NON_BLOCKING as u32) };
        check("cuStreamCreate", context.device(), result)?;
        Ok(Stream { context: context.clone(), handle })
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.handle
    }

    /// What is queued from here on starts when `event` is reached. The event may be of another GPU.
    pub fn wait(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: stream and event live; 0 asks for nothing special.
        self.queue("cuStreamWaitEvent", || unsafe { sys::cuStreamWaitEvent(self.handle, event.handle(), 0) })
    }

    /// Whether all that was queued is done. An error of that work shows here.
    pub fn is_done(&self) -> Result<bool, CudaError> {
        self.context.bind()?;
        // SAFETY: the stream lives.
        match unsafe { sys::cuStreamQuery(self.handle) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => check("cuStreamQuery", self.context.device(), result).map(|()| true),
        }
    }

    /// Blocks the calling thread until all that was queued is done. An error of that work shows here.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives.
        self.queue("cuStreamSynchronize", || unsafe { sys::cuStreamSynchronize(self.handle) })
    }

    /// A copy within one GPU, or between two of which one can access the other's memory.
    pub fn copy_async(&self, to: DeviceSpan<'_>, from: DeviceSpan<'_>) -> Result<(), CudaError> {
        same_length(to.bytes(), from.bytes())?;
        let (target, source, size) = (to.ptr().0, from.ptr().0, to.size());
        // SAFETY: both spans lie within memory that exists; the GPU and not this process accesses it.
        self.queue("cuMemcpyDtoDAsync", || unsafe { sys::cuMemcpyDtoDAsync_v2(target, source, size, self.handle) })
    }

    /// A copy between two GPUs. Without peer access the driver takes it through host memory, slowly.
    pub fn copy_peer_async(&self, to: DeviceSpan<'_>, from: DeviceSpan<'_>) -> Result<(), CudaError> {
        same_length(to.bytes(), from.bytes())?;
        let (target, source, size) = (to.ptr().0, from.ptr().0, to.size());
        let contexts = (to.context.handle(), from.context.handle());
        // SAFETY: as in `copy_async`, and both contexts are retained.
        self.queue("cuMemcpyPeerAsync", || unsafe {
            sys::cuMemcpyPeerAsync(target, contexts.0, source, contexts.1, size, self.handle)
        })
    }

    /// Many copies in few calls, in no order among themselves. With an older driver, one call per range. After an error some of the ranges
    /// may have been queued: wait for the stream before touching the memory again.
    ///
    /// Between GPUs it needs peer access from this stream's GPU to the other.
    pub fn copy_batch_async(&self, ranges: &[CopyRange<'_>]) -> Result<(), CudaError> {
        for range in ranges {
            same_length(range.to.bytes(), range.from.bytes())?;
        }
        if matches!(self.context.driver().batch_copies(), BatchCopies::None) {
            return ranges.iter().try_for_each(|range| match range.to.context.same_gpu(range.from.context) {
                true => self.copy_async(range.to, range.from),
                false => self.copy_peer_async(range.to, range.from),
            });
        }
        self.context.bind()?;
        ranges.chunks(BATCH_RANGES_MAX).enumerate().try_for_each(|(i, chunk)| self.batch(chunk, i * BATCH_RANGES_MAX, ranges.len()))
    }

    /// One call of the driver; `first` and `count` are where these ranges stand in the whole batch, for the error.
    fn batch(&self, ranges: &[CopyRange<'_>], first: usize, count: usize) -> Result<(), CudaError> {
        // The driver refuses empty copies, which do nothing anyway.
        let (mut targets, mut sources, mut sizes, mut places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (i, range) in ranges.iter().enumerate().filter(|(_, range)| range.to.bytes() > 0) {
            targets.push(range.to.ptr().0);
            sources.push(range.from.ptr().0);
            sizes.push(range.to.size());
            places.push(first + i);
        }
        if targets.is_empty() {
            return Ok(());
        }
        // Hints are for managed memory only. Stream order, since earlier work of the stream may be writing the source.
        let nowhere = CUmemLocation { type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_INVALID, id: 0 };
        let mut attributes = CUmemcpyAttributes {
            srcAccessOrder: CUmemcpySrcAccessOrder::CU_MEMCPY_SRC_ACCESS_ORDER_STREAM,
            srcLocHint: nowhere,
            dstLocHint: nowhere,
            flags: 0,
        };
        let mut attributes_from = 0;
        let mut failed = usize::MAX;
        let (to, from, of) = (targets.as_mut_ptr(), sources.as_mut_ptr(), sizes.as_mut_ptr());
        let (given, how, since) = (targets.len(), &raw mut attributes, &raw mut attributes_from);
        // SAFETY: the lists have `given` entries each, one set of attributes holds from entry 0 on, and all of it outlives the call.
        // The spans lie within memory that exists.
        let result = unsafe {
            match self.context.driver().batch_copies() {
                BatchCopies::V2(copy) => copy(to, from, of, given, how, since, 1, self.handle),
                BatchCopies::V1(copy) => copy(to, from, of, given, how, since, 1, &mut failed, self.handle),
                BatchCopies::None => CUresult::CUDA_ERROR_NOT_SUPPORTED,
            }
        };
        match (result, places.get(failed)) {
            (CUresult::CUDA_SUCCESS, _) => Ok(()),
            (code, Some(&index)) => {
                let gpu = self.context.device().to_string();
                Err(CudaError::BatchRefused { gpu, index, count, code: CudaCode(code) })
            }
            (code, None) => Err(self.context.fails("cuMemcpyBatchAsync", code)),
        }
    }

    /// GPU -> host.
    pub fn copy_to_pinned_async(&self, to: &PinnedMemory, offset: u64, from: DeviceSpan<'_>) -> Result<(), CudaError> {
        let at = to.at(offset, from.bytes())?;
        // SAFETY: both places have that many bytes; `PinnedMemory` is read only by callers that promise that the copy is done.
        self.queue("cuMemcpyDtoHAsync", || unsafe { sys::cuMemcpyDtoHAsync_v2(at, from.ptr().0, from.size(), self.handle) })
    }

    /// Host -> GPU.
    pub fn copy_from_pinned_async(&self, to: DeviceSpan<'_>, from: &PinnedMemory, offset: u64) -> Result<(), CudaError> {
        let at = from.at(offset, to.bytes())?;
        // SAFETY: as in `copy_to_pinned_async`.
        self.queue("cuMemcpyHtoDAsync", || unsafe { sys::cuMemcpyHtoDAsync_v2(to.ptr().0, at, to.size(), self.handle) })
    }

    /// Every byte becomes `value`.
    pub fn fill_async(&self, span: DeviceSpan<'_>, value: u8) -> Result<(), CudaError> {
        // SAFETY: the span lies within memory that exists.
        self.queue("cuMemsetD8Async", || unsafe { sys::cuMemsetD8Async(span.ptr().0, value, span.size(), self.handle) })
    }

    /// Copies `bytes` to the GPU, after what is queued, and waits until it is done.
    pub fn write(&self, to: DeviceSpan<'_>, bytes: &[u8]) -> Result<(), CudaError> {
        same_length(to.bytes(), bytes.len() as u64)?;
        let source = bytes.as_ptr().cast();
        // SAFETY: both places have that many bytes, and `bytes` is borrowed until the copy is done.
        self.queue("cuMemcpyHtoDAsync", || unsafe { sys::cuMemcpyHtoDAsync_v2(to.ptr().0, source, to.size(), self.handle) })?;
        self.synchronize()
    }

    /// Copies from the GPU, after what is queued, and waits until it is done.
    pub fn read(&self, from: DeviceSpan<'_>) -> Result<Vec<u8>, CudaError> {
        let mut bytes = vec![0u8; from.size()];
        let target = bytes.as_mut_ptr().cast();
        // SAFETY: both places have that many bytes, and `bytes` lives until the copy is done: into memory that is not pinned the
        // driver copies before it returns.
        self.queue("cuMemcpyDtoHAsync", || unsafe { sys::cuMemcpyDtoHAsync_v2(target, from.ptr().0, from.size(), self.handle) })?;
        self.synchronize()?;
        Ok(bytes)
    }

    pub(super) fn queue(&self, operation: &'static str, call: impl FnOnce() -> CUresult) -> Result<(), CudaError> {
        self.context.bind()?;
        check(operation, self.context.device(), call())
    }
}

fn same_length(to: u64, from: u64) -> Result<(), CudaError> {
    if to == from { Ok(()) } else { Err(CudaError::LengthsDiffer { from, to }) }
}

impl Drop for Stream {
    /// What is queued still runs to its end.
    fn drop(&mut self) {
        // SAFETY: created once and destroyed once, in a context that is retained.
        let result = unsafe {
            sys::cuCtxSetCurrent(self.context.handle());
            sys::cuStreamDestroy_v2(self.handle)
        };
        log_failure("cuStreamDestroy", self.context.device(), result);
    }
}
