//! An engine's KV memory in this process: the pieces it registered, imported, and addressed as if they lay behind each other.

use dualpool_cuda::{Context, CopyRange, CudaError, DeviceSpan, GpuUuid, IpcHandle, IpcMemory};
use dualpool_types::EngineId;

use super::super::copy_plan::ByteRange;
use super::CopyError;

pub(super) struct Region {
    engine: EngineId,
    context: Context,
    handles: Vec<IpcHandle>,
    pieces: Vec<IpcMemory>,
    /// Where each piece begins, counted through all of them; one more at the end, which is the size.
    starts: Vec<u64>,
}

impl Region {
    /// Imports the pieces in this context: for copies one of the GPU that they lie on.
    pub(super) fn import(engine: EngineId, context: &Context, handles: Vec<IpcHandle>) -> Result<Region, CudaError> {
        let pieces = handles.iter().map(|handle| context.import(handle)).collect::<Result<_, _>>()?;
        let ends = handles.iter().scan(0, |end, handle| {
            *end += handle.size.0;
            Some(*end)
        });
        let starts = std::iter::once(0).chain(ends).collect();
        Ok(Region { engine, context: context.clone(), handles, pieces, starts })
    }

    /// The same memory as a kernel of another GPU reaches it.
    pub(super) fn seen_from(&self, context: &Context) -> Result<Region, CudaError> {
        Region::import(self.engine, context, self.handles.clone())
    }

    pub(super) fn engine(&self) -> EngineId {
        self.engine
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn gpu(&self) -> GpuUuid {
        self.context.device().uuid
    }

    /// What a range is made of, in order.
    pub(super) fn spans(&self, offset: u64, length: u64) -> Result<Vec<DeviceSpan<'_>>, CopyError> {
        let bytes = self.starts.last().copied().unwrap_or(0);
        let out_of_bounds = |end| CopyError::OutOfBounds { engine: self.engine, end, bytes };
        let end = offset.checked_add(length).ok_or_else(|| out_of_bounds(u64::MAX))?;
        if end > bytes {
            return Err(out_of_bounds(end));
        }
        let mut spans = Vec::with_capacity(1);
        let mut at = offset;
        while at < end {
            // The last piece that begins at or before `at`. There is one, as the first begins at 0, and `at` is in it, as no piece is empty.
            let piece = self.starts.partition_point(|start| *start <= at) - 1;
            let until = end.min(self.starts[piece + 1]);
            spans.push(self.pieces[piece].span(at - self.starts[piece], until - at)?);
            at = until;
        }
        Ok(spans)
    }
}

/// A plan as copies between addresses. A range that goes on in another piece, at either end, is cut there.
pub(super) fn ranges<'m>(plan: &[ByteRange], from: &'m Region, to: &'m Region) -> Result<Vec<CopyRange<'m>>, CopyError> {
    let mut ranges = Vec::with_capacity(plan.len());
    for span in plan {
        let mut sources = from.spans(span.source, span.length)?.into_iter();
        let mut targets = to.spans(span.target, span.length)?.into_iter();
        let (mut source, mut target) = (sources.next(), targets.next());
        while let (Some(left), Some(right)) = (source, target) {
            let length = left.bytes().min(right.bytes());
            ranges.push(CopyRange { from: left.span(0, length)?, to: right.span(0, length)? });
            source = rest(left, length)?.or_else(|| sources.next());
            target = rest(right, length)?.or_else(|| targets.next());
        }
    }
    Ok(ranges)
}

/// What follows the first `length` bytes; none when there is nothing.
fn rest(span: DeviceSpan<'_>, length: u64) -> Result<Option<DeviceSpan<'_>>, CudaError> {
    (length < span.bytes()).then(|| span.span(length, span.bytes() - length)).transpose()
}
