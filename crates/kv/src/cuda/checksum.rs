//! Checksums of GPU memory, read in chunks through pinned host memory.

use xxhash_rust::xxh3::Xxh3Default;

use dualpool_cuda::{Context, CudaError, Event, PinnedMemory, Stream, Timing};
use dualpool_types::Bytes;

use super::super::transport::Stop;
use super::CopyError;
use super::region::Region;
use super::wait::reached;

const CHUNK_BYTES: u64 = 4 << 20;

/// Reads memory of one GPU.
pub(super) struct Reader {
    stream: Stream,
    host: PinnedMemory,
    mark: Event,
}

impl Reader {
    pub(super) fn new(context: &Context) -> Result<Reader, CudaError> {
        Ok(Reader { stream: context.stream()?, host: context.pinned(Bytes(CHUNK_BYTES))?, mark: context.event(Timing::Off)? })
    }

    pub(super) fn checksum(
        &mut self,
        region: &Region,
        ranges: &mut dyn Iterator<Item = (u64, u64)>,
        stop: &Stop,
    ) -> Result<u64, CopyError> {
        let mut hash = Xxh3Default::new();
        let mut filled = 0;
        let read = self.read(region, ranges, stop, &mut hash, &mut filled).and_then(|()| self.hash(&mut hash, &mut filled, stop));
        if read.is_err()
            && let Err(error) = self.stream.synchronize()
        {
            tracing::debug!("after a checksum that failed: {error}");
        }
        read.map(|()| hash.digest())
    }

    fn read(
        &mut self,
        region: &Region,
        ranges: &mut dyn Iterator<Item = (u64, u64)>,
        stop: &Stop,
        hash: &mut Xxh3Default,
        filled: &mut u64,
    ) -> Result<(), CopyError> {
        for (offset, length) in ranges {
            for span in region.spans(offset, length)? {
                let mut done = 0;
                while done < span.bytes() {
                    let part = (span.bytes() - done).min(CHUNK_BYTES - *filled);
                    self.stream.copy_to_pinned_async(&self.host, *filled, span.span(done, part)?)?;
                    (done, *filled) = (done + part, *filled + part);
                    if *filled == CHUNK_BYTES {
                        self.hash(hash, filled, stop)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for what is being read, and takes it in.
    fn hash(&mut self, hash: &mut Xxh3Default, filled: &mut u64, stop: &Stop) -> Result<(), CopyError> {
        self.mark.record(&self.stream)?;
        reached(&self.mark, stop)?;
        // SAFETY: all copies to this memory came before the mark, which is reached.
        hash.update(&unsafe { self.host.bytes() }[..*filled as usize]);
        *filled = 0;
        Ok(())
    }
}
