//! Brings lists of ranges to the GPU without waiting: a few pinned buffers in turn, each with its twin on the GPU, each free again when the
//! kernel that reads it is done. Uploads have a stream of their own, so that the next list travels while the last one is worked off.

use dualpool_types::Bytes;

use super::super::{Context, CudaError, DeviceMemory, DevicePtr, Event, PinnedMemory, Stream, Timing};
use super::ranges::{DeviceByteRange, RANGES_PER_LAUNCH};

/// Lists under way at once; one more waits for the oldest. Double buffering in both directions keeps four busy.
const SLOTS: usize = 4;

const RECORD_BYTES: usize = size_of::<DeviceByteRange>();
const SLOT_BYTES: Bytes = Bytes((RANGES_PER_LAUNCH * RECORD_BYTES) as u64);

#[derive(Debug)]
pub(super) struct Upload {
    stream: Stream,
    slots: [Slot; SLOTS],
    next: usize,
}

#[derive(Debug)]
struct Slot {
    host: PinnedMemory,
    device: DeviceMemory,
    /// Reached when the list is on the GPU.
    ready: Event,
    /// Reached when nothing queued touches the two any more; a new event counts as reached.
    free: Event,
}

impl Upload {
    pub(super) fn allocate(context: &Context) -> Result<Upload, CudaError> {
        let slot = || -> Result<Slot, CudaError> {
            Ok(Slot {
                host: context.pinned(SLOT_BYTES)?,
                device: context.allocate(SLOT_BYTES)?,
                ready: context.event(Timing::Off)?,
                free: context.event(Timing::Off)?,
            })
        };
        Ok(Upload { stream: context.stream()?, slots: [slot()?, slot()?, slot()?, slot()?], next: 0 })
    }

    /// Queues the upload of at most [`RANGES_PER_LAUNCH`] records, makes `stream` wait for it, and returns where they will be. Call
    /// [`Upload::done`] after the launch that reads them.
    pub(super) fn send(&mut self, stream: &Stream, records: &[DeviceByteRange]) -> Result<DevicePtr, CudaError> {
        let slot = &mut self.slots[self.next];
        slot.free.wait_here()?;
        // Should anything below fail after the upload was queued, then `ready` is what the next user of the slot has to wait for.
        slot.ready.wait_here()?;
        let length = records.len() * RECORD_BYTES;
        // SAFETY: both events say that nothing queued touches the buffer; the next copy out of it is queued below.
        let bytes = unsafe { slot.host.bytes_mut() };
        for (place, record) in bytes[..length].chunks_exact_mut(RECORD_BYTES).zip(records) {
            place.copy_from_slice(&encoded(record));
        }
        self.stream.copy_from_pinned_async(slot.device.span(0, length as u64)?, &slot.host, 0)?;
        slot.ready.record(&self.stream)?;
        stream.wait(&slot.ready)?;
        Ok(slot.device.ptr())
    }

    /// The slot of the last [`Upload::send`] is free again when what is queued by now is done.
    pub(super) fn done(&mut self, stream: &Stream) -> Result<(), CudaError> {
        let slot = &self.slots[self.next];
        self.next = (self.next + 1) % SLOTS;
        slot.free.record(stream)
    }
}

/// As the GPU reads it: three little-endian words.
fn encoded(record: &DeviceByteRange) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    for (place, word) in bytes.chunks_exact_mut(8).zip([record.source, record.target, record.begin]) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
