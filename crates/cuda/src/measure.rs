//! How fast bytes go from one GPU to another, by the GPUs' own clocks.

use dualpool_types::Bytes;

use super::context::Context;
use super::device::CudaDevice;
use super::error::CudaError;
use super::event::Timing;

/// Of this many copies the median counts: the first of a pair of GPUs is slow, and something else may run beside one of them.
const COPIES: usize = 9;

/// What copies of one size took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerBandwidth {
    pub bytes: Bytes,
    /// Of a copy, the median.
    pub ms: f64,
    /// Whether bytes went over a link between the GPUs; otherwise through host memory.
    pub peer_access: bool,
}

impl PeerBandwidth {
    /// None when the copy was too short for the GPU's clock.
    pub fn bytes_per_s(&self) -> Option<f64> {
        (self.ms > 0.0).then(|| self.bytes.0 as f64 / self.ms * 1e3)
    }
}

/// Copies `bytes` from one GPU to another a few times, by the copy engines and carried out by the GPU that has the bytes. For the rate of
/// the link take 64 MiB and more; both GPUs need that much free memory, and twice as much where `from` and `to` are the same.
pub fn measure_peer_bandwidth(from: &CudaDevice, to: &CudaDevice, bytes: Bytes) -> Result<PeerBandwidth, CudaError> {
    let (here, there) = (Context::retain(from)?, Context::retain(to)?);
    let peer_access = match here.enable_peer(&there) {
        Ok(()) => true,
        Err(CudaError::NoPeerAccess { .. }) => false,
        Err(error) => return Err(error),
    };
    let (source, target) = (here.allocate(bytes)?, there.allocate(bytes)?);
    let stream = here.stream()?;
    // Memory that was never written may not be there yet.
    stream.fill_async(source.whole(), 0)?;
    let marks = (0..=COPIES).map(|_| here.event(Timing::On)).collect::<Result<Vec<_>, _>>()?;
    // One copy before the first mark: all that follow are queued while it runs, so that no submission is measured.
    stream.copy_peer_async(target.whole(), source.whole())?;
    for (i, mark) in marks.iter().enumerate() {
        if i > 0 {
            stream.copy_peer_async(target.whole(), source.whole())?;
        }
        mark.record(&stream)?;
    }
    stream.synchronize()?;
    let mut ms = marks.windows(2).map(|pair| pair[1].ms_since(&pair[0])).collect::<Result<Vec<_>, _>>()?;
    ms.sort_by(f64::total_cmp);
    Ok(PeerBandwidth { bytes, ms: ms[COPIES / 2], peer_access })
}
