//! How each class of copy is carried out. All byte ranges of a plan are apart in the target, so parts may overtake each other.

use std::sync::PoisonError;

use dualpool_cuda::kernels::{Piece, Window, windows};
use dualpool_cuda::{CopyRange, CudaError, Stream};
use dualpool_types::Bytes;

use super::super::copy_plan::ByteRange;
use super::super::transport::Stop;
use super::CopyError;
use super::region::{Region, ranges};
use super::route::{Ends, PARTS, Reach, Route};
use super::wait::reached;

/// The largest part of a plan that goes straight: a few hundred microseconds on a link between GPUs.
const STRAIGHT_PART_BYTES: u64 = 64 << 20;
/// Staging memory of one part, on each of the two GPUs: long enough that starting a part costs little beside its copy.
const STAGING_PART_BYTES: u64 = 16 << 20;
/// Pinned host memory of one part.
const HOST_PART_BYTES: u64 = 8 << 20;

impl Route {
    /// One copy per range, given to the driver in batches. Within one GPU as between two.
    pub(super) fn direct(&mut self, ranges: &[CopyRange<'_>], stop: &Stop) -> Result<(), CopyError> {
        for (number, part) in parts(ranges, STRAIGHT_PART_BYTES).enumerate() {
            let mark = &self.marks[number % PARTS].read;
            reached(mark, stop)?;
            self.outward.copy_batch_async(&straight(&part, ranges)?)?;
            mark.record(&self.outward)?;
        }
        self.marks.iter().try_for_each(|marks| reached(&marks.read, stop))
    }

    /// A kernel on the source's GPU that stores into the target, over the link or within the GPU.
    pub(super) fn peer_store(
        &mut self,
        plan: &[ByteRange],
        source: &Region,
        target: &Region,
        stop: &Stop,
    ) -> Result<(), CopyError> {
        let kernels = self.kernels.as_ref().ok_or(CopyError::NoKernels)?.source.clone();
        let target = match (self.reach(), &mut self.target_seen) {
            (Reach::SameGpu, _) => target,
            (_, Some(seen)) => seen,
            (_, none) => none.insert(target.seen_from(source.context()).map_err(CopyError::SetUp)?),
        };
        let ranges = ranges(plan, source, target)?;
        for (number, part) in parts(&ranges, STRAIGHT_PART_BYTES).enumerate() {
            let mark = &self.marks[number % PARTS].read;
            reached(mark, stop)?;
            let mut kernels = kernels.lock().unwrap_or_else(PoisonError::into_inner);
            kernels.peer_store(&self.outward, &straight(&part, &ranges)?)?;
            mark.record(&self.outward)?;
        }
        self.marks.iter().try_for_each(|marks| reached(&marks.read, stop))
    }

    /// Gathered into staging memory, copied to the other GPU's, scattered from there: while one part crosses the link, the next is
    /// gathered and the last scattered.
    pub(super) fn staged(&mut self, ranges: &[CopyRange<'_>], stop: &Stop) -> Result<(), CopyError> {
        let kernels = self.kernels.clone().ok_or(CopyError::NoKernels)?;
        let staging = match &mut self.staging {
            Some(staging) => staging,
            none => {
                let size = Bytes(STAGING_PART_BYTES * PARTS as u64);
                let memory = |stream: &Stream| stream.context().allocate(size).map_err(CopyError::SetUp);
                none.insert(Ends { source: memory(&self.outward)?, target: memory(&self.inward)? })
            }
        };
        for (number, part) in parts(ranges, STAGING_PART_BYTES).enumerate() {
            let place = number % PARTS;
            let marks = &self.marks[place];
            // The part that had this place before is all over then, so its staging memory is free at both ends.
            reached(&marks.written, stop)?;
            let at = place as u64 * STAGING_PART_BYTES;
            let (near, far) = (staging.source.span(at, part.bytes)?, staging.target.span(at, part.bytes)?);
            let mut gather = kernels.source.lock().unwrap_or_else(PoisonError::into_inner);
            gather.gather(&self.outward, &part.gather(ranges, near)?)?;
            marks.read.record(&self.outward)?;
            self.link.wait(&marks.read)?;
            self.link.copy_peer_async(far, near)?;
            marks.crossed.record(&self.link)?;
            self.inward.wait(&marks.crossed)?;
            let mut scatter = kernels.target.lock().unwrap_or_else(PoisonError::into_inner);
            scatter.scatter(&self.inward, &part.scatter(ranges, far)?)?;
            marks.written.record(&self.inward)?;
        }
        self.marks.iter().try_for_each(|marks| reached(&marks.written, stop))
    }

    /// Out to pinned host memory and in again: while one part is written, the next is read.
    pub(super) fn through_host(&mut self, ranges: &[CopyRange<'_>], stop: &Stop) -> Result<(), CopyError> {
        let host = match &mut self.host {
            Some(host) => host,
            // No error of `SetUp`: the class of last resort is never left out.
            none => none.insert(self.outward.context().pinned(Bytes(HOST_PART_BYTES * PARTS as u64))?),
        };
        for (number, part) in parts(ranges, HOST_PART_BYTES).enumerate() {
            let place = number % PARTS;
            let (marks, at) = (&self.marks[place], place as u64 * HOST_PART_BYTES);
            reached(&marks.written, stop)?;
            for piece in &part.pieces {
                let from = ranges[piece.range].from.span(piece.within, piece.length)?;
                self.outward.copy_to_pinned_async(host, at + piece.at, from)?;
            }
            marks.read.record(&self.outward)?;
            self.inward.wait(&marks.read)?;
            for piece in &part.pieces {
                let to = ranges[piece.range].to.span(piece.within, piece.length)?;
                self.inward.copy_from_pinned_async(to, host, at + piece.at)?;
            }
            marks.written.record(&self.inward)?;
        }
        self.marks.iter().try_for_each(|marks| reached(&marks.written, stop))
    }
}

/// The ranges in parts of at most so many bytes.
fn parts(ranges: &[CopyRange<'_>], bytes_max: u64) -> impl Iterator<Item = Window> {
    windows(ranges.iter().map(|range| (range.from.ptr().0, range.from.bytes())), bytes_max)
}

/// The pieces of a part as copies from source to target.
fn straight<'m>(part: &Window, ranges: &[CopyRange<'m>]) -> Result<Vec<CopyRange<'m>>, CudaError> {
    let copy = |piece: &Piece| {
        let range = &ranges[piece.range];
        Ok(CopyRange { to: range.to.span(piece.within, piece.length)?, from: range.from.span(piece.within, piece.length)? })
    };
    part.pieces.iter().map(copy).collect()
}
