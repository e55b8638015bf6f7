//! The copy kernels on one GPU: loaded once, then launched on lists of byte ranges. What they do and how they divide the work is in
//! `kernels/README.md`, beside their source.

mod image;
pub mod nvrtc;
mod ranges;
#[path = "../../../kernels/reference.rs"]
pub mod reference;
mod upload;

use std::path::PathBuf;

use thiserror::Error;

pub use image::{Origin, built_in};
pub use ranges::{
    ByteRange, DeviceByteRange, Division, Piece, RANGES_PER_LAUNCH, STAGING_MIN_BYTES, THREADS, Window, records_into, windows,
};

use self::nvrtc::NvrtcError;
use self::upload::Upload;
use super::{Context, CopyRange, CudaError, DeviceSpan, Function, KernelArgs, LaunchShape, Stream};

/// The kernels' source, for NVRTC.
pub const SOURCE: &str = include_str!("../../../kernels/kv_copy.cu");

/// The kernels of [`SOURCE`].
pub const NAMES: [&str; 3] = ["kv_gather", "kv_scatter", "kv_peer_store"];

#[derive(Debug, Error)]
pub enum KernelError {
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// Copies go on without kernels, by the copy engines alone.
    #[error("no kernels for {gpu}: {not_built_in}, and {not_compiled}")]
    Unavailable { gpu: String, not_built_in: String, not_compiled: Box<NvrtcError> },
    #[error("kernels of {kernels} were given a stream or memory of {other}; gather and scatter each work within one GPU")]
    OtherGpu { kernels: String, other: String },
}

/// The kernels, ready to be launched on one GPU, by one thread at a time.
#[derive(Debug)]
pub struct Kernels {
    context: Context,
    origin: Origin,
    gather: Function,
    scatter: Function,
    peer_store: Function,
    upload: Upload,
    records: Vec<DeviceByteRange>,
    grid_blocks_max: u32,
}

impl Kernels {
    /// Takes what was compiled with this program, or else compiles for the GPU at hand with an NVRTC from `nvrtc_folders` (see
    /// [`nvrtc::folders`]) or the system. `grid_blocks_max` caps every launch.
    pub fn load(context: &Context, nvrtc_folders: &[PathBuf], grid_blocks_max: u32) -> Result<Kernels, KernelError> {
        let (module, origin) = image::load(context, nvrtc_folders)?;
        tracing::debug!(gpu = %context.device(), %origin, grid_blocks_max, "copy kernels loaded");
        Ok(Kernels {
            context: context.clone(),
            gather: module.function(c"kv_gather")?,
            scatter: module.function(c"kv_scatter")?,
            peer_store: module.function(c"kv_peer_store")?,
            upload: Upload::allocate(context)?,
            records: Vec::with_capacity(RANGES_PER_LAUNCH),
            origin,
            grid_blocks_max,
        })
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub fn set_grid_blocks_max(&mut self, grid_blocks_max: u32) {
        self.grid_blocks_max = grid_blocks_max;
    }

    /// Queues copies out of KV memory into a staging buffer of the same GPU.
    pub fn gather(&mut self, stream: &Stream, ranges: &[CopyRange<'_>]) -> Result<(), KernelError> {
        self.all_here(stream, ranges.iter().flat_map(|range| [&range.from, &range.to]))?;
        self.launch(stream, |kernels| &kernels.gather, ranges)
    }

    /// Queues copies out of a staging buffer into KV memory of the same GPU.
    pub fn scatter(&mut self, stream: &Stream, ranges: &[CopyRange<'_>]) -> Result<(), KernelError> {
        self.all_here(stream, ranges.iter().flat_map(|range| [&range.from, &range.to]))?;
        self.launch(stream, |kernels| &kernels.scatter, ranges)
    }

    /// Queues copies out of this GPU's memory straight into that of others, or into its own.
    pub fn peer_store(&mut self, stream: &Stream, ranges: &[CopyRange<'_>]) -> Result<(), KernelError> {
        self.all_here(stream, ranges.iter().map(|range| &range.from))?;
        let mut last: Option<&Context> = None;
        for peer in ranges.iter().map(|range| range.to.context()) {
            if !last.is_some_and(|last| last.same_gpu(peer)) {
                self.context.enable_peer(peer)?;
                last = Some(peer);
            }
        }
        self.launch(stream, |kernels| &kernels.peer_store, ranges)
    }

    /// A kernel finds out about memory that it cannot reach by losing the whole context, so that is asked before.
    fn all_here<'s>(&self, stream: &Stream, mut spans: impl Iterator<Item = &'s DeviceSpan<'s>>) -> Result<(), KernelError> {
        let foreign = |context: &Context| !context.same_gpu(&self.context);
        let other = match foreign(stream.context()) {
            true => Some(stream.context()),
            false => spans.find(|span| foreign(span.context())).map(|span| span.context()),
        };
        other.map_or(Ok(()), |other| {
            let (kernels, other) = (self.context.device().to_string(), other.device().to_string());
            Err(KernelError::OtherGpu { kernels, other })
        })
    }

    /// Ranges must be apart in their targets, as plans are. Waits only when so many lists are under way that their buffers are all in use.
    /// After an error some of the ranges may have been queued: wait for the stream before touching the memory again.
    fn launch(&mut self, stream: &Stream, kernel: fn(&Kernels) -> &Function, ranges: &[CopyRange<'_>]) -> Result<(), KernelError> {
        if let Some(range) = ranges.iter().find(|range| range.from.bytes() != range.to.bytes()) {
            return Err(CudaError::LengthsDiffer { from: range.from.bytes(), to: range.to.bytes() }.into());
        }
        for part in ranges.chunks(RANGES_PER_LAUNCH) {
            let addresses = |range: &CopyRange<'_>| ByteRange {
                source: range.from.ptr().0,
                target: range.to.ptr().0,
                length: range.from.bytes(),
            };
            let bytes = records_into(part.iter().map(addresses), &mut self.records);
            if bytes == 0 {
                continue;
            }
            let Division { blocks, tile_bytes } = Division::of(bytes, self.grid_blocks_max);
            let shape = LaunchShape { blocks, threads: THREADS, shared_bytes: 0 };
            let records = self.upload.send(stream, &self.records)?;
            let count = self.records.len() as u64;
            // The records hold addresses: both bases are 0.
            let args = KernelArgs::new().value(0).value(0).ptr(records).value(count).value(bytes).value(tile_bytes);
            // SAFETY: six arguments of 8 bytes, as `kv_copy.cu` declares them. Every range lies within spans of memory that exists and that
            // this GPU reaches; the records stay where they are until the event that `done` records.
            unsafe { stream.launch(kernel(self), shape, args) }?;
            self.upload.done(stream)?;
        }
        Ok(())
    }
}
