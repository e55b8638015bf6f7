//! An engine's KV memory in this process: the pieces it registered, imported, and addressed as if they lay behind each other.

use super::super::plan::Span;
use super::super::transport::TransportError;
use crate::core::EngineId;
use crate::device::cuda::{Context, CopyRun, CudaError, DeviceSpan, GpuUuid, IpcHandle, IpcMemory};

pub struct Region {
    engine: EngineId,
    context: Context,
    handles: Vec<IpcHandle>,
    pieces: Vec<IpcMemory>,
    /// Where each piece begins, counted through all of them; one more at the end, which is the size.
    starts: Vec<u64>,
}

impl Region {
    /// Imports the pieces in a context of the GPU that they lie on.
    pub fn import(engine: EngineId, context: &Context, handles: Vec<IpcHandle>) -> Result<Region, CudaError> {
        let pieces = import_all(context, &handles)?;
        let mut starts = vec![0];
        let mut end = 0;
        for handle in &handles {
            end += handle.size.0;
            starts.push(end);
        }
        Ok(Region { engine, context: context.clone(), handles, pieces, starts })
    }

    /// The same memory as a kernel of another GPU reaches it.
    pub fn seen_from(&self, context: &Context) -> Result<Region, CudaError> {
        Region::import(self.engine, context, self.handles.clone())
    }

    pub fn engine(&self) -> EngineId {
        self.engine
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn gpu(&self) -> GpuUuid {
        self.context.device().uuid
    }

    fn bytes(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The pieces that a range lies in, in order.
    pub fn spans(&self, offset: u64, length: u64) -> Result<Vec<DeviceSpan<'_>>, TransportError> {
        let bytes = self.bytes();
        let end = offset.checked_add(length).filter(|end| *end <= bytes);
        let out_of_bounds = |end| TransportError::OutOfBounds { engine: self.engine, end, bytes };
        let end = end.ok_or_else(|| out_of_bounds(offset.saturating_add(length)))?;
        let mut spans = Vec::with_capacity(1);
        let mut at = offset;
        while at < end {
            // The last piece that begins at or before `at`; it has bytes there, as pieces are not empty and `at` is within bounds.
            let piece = self.starts.partition_point(|start| *start <= at) - 1;
            let until = end.min(self.starts[piece + 1]);
            let span = self.pieces[piece].span(at - self.starts[piece], until - at).map_err(|_| out_of_bounds(until))?;
            spans.push(span);
            at = until;
        }
        Ok(spans)
    }
}

fn import_all(context: &Context, handles: &[IpcHandle]) -> Result<Vec<IpcMemory>, CudaError> {
    handles.iter().map(|handle| context.import(handle)).collect()
}

/// A plan as copies between addresses: spans that cross from one piece into the next, at either end, are cut there.
pub fn runs<'m>(plan: &[Span], from: &'m Region, to: &'m Region) -> Result<Vec<CopyRun<'m>>, TransportError> {
    let mut runs = Vec::with_capacity(plan.len());
    for span in plan {
        let mut sources = from.spans(span.source, span.length)?.into_iter();
        let mut targets = to.spans(span.target, span.length)?.into_iter();
        let (mut source, mut target) = (sources.next(), targets.next());
        while let (Some(left), Some(right)) = (source, target) {
            let length = left.bytes().min(right.bytes());
            runs.push(CopyRun { from: head(left, length)?, to: head(right, length)? });
            source = tail(left, length)?.or_else(|| sources.next());
            target = tail(right, length)?.or_else(|| targets.next());
        }
    }
    Ok(runs)
}

/// Runs in slices of at most so many bytes and runs; a run that is longer is cut.
pub fn slices<'m>(runs: &[CopyRun<'m>], bytes_max: u64, runs_max: usize) -> Result<Vec<Vec<CopyRun<'m>>>, TransportError> {
    let mut slices = vec![Vec::new()];
    let mut room = bytes_max;
    for run in runs {
        let mut rest = Some(*run);
        while let Some(run) = rest {
            if room == 0 || slices.last().is_some_and(|slice| slice.len() == runs_max) {
                slices.push(Vec::new());
                room = bytes_max;
            }
            let length = run.from.bytes().min(room);
            if let Some(slice) = slices.last_mut() {
                slice.push(CopyRun { from: head(run.from, length)?, to: head(run.to, length)? });
            }
            room -= length;
            rest = match (tail(run.from, length)?, tail(run.to, length)?) {
                (Some(from), Some(to)) => Some(CopyRun { from, to }),
                _ => None,
            };
        }
    }
    slices.retain(|slice| !slice.is_empty());
    Ok(slices)
}

fn head(span: DeviceSpan<'_>, length: u64) -> Result<DeviceSpan<'_>, TransportError> {
    span.span(0, length).map_err(|error| TransportError::Internal { why: error.to_string() })
}

/// What follows the first `length` bytes; none when there is nothing.
fn tail(span: DeviceSpan<'_>, length: u64) -> Result<Option<DeviceSpan<'_>>, TransportError> {
    if length == span.bytes() {
        return Ok(None);
    }
    span.span(length, span.bytes() - length).map(Some).map_err(|error| TransportError::Internal { why: error.to_string() })
}
