//! The thread that reads the GPUs.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nvml_wrapper::Nvml;

use dualpool_types::records::GpuReading;
use dualpool_types::{Clock, Micros, Time};

use super::probe::Probe;
use super::{GpuEvent, GpuEventKind, Round, SamplerError};
use crate::gpu;

/// The GPUs that are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those with these UUIDs: NVML's indices are its own, and CUDA may count otherwise.
    Uuids(Vec<Arc<str>>),
}

/// How long the end of a sampler waits for the reading under way: a driver that hangs must not hold up what ends with it.
const STOP_MAX: Duration = Duration::from_secs(2);

/// Reads GPUs until it is dropped, which waits for the reading under way, at most `STOP_MAX`, and for nothing else.
#[derive(Debug)]
pub struct Sampler {
    /// Dropping it tells the thread to end.
    stop: Option<SyncSender<()>>,
    /// Closed by the thread's end.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Reads once per `period`, for the first time after one: utilisation and throughput are of the time between two readings. Each
    /// round goes to `sink`, on the sampler's thread, so it must not wait. `library` is the NVML library to load; none = where the
    /// system's loader finds it.
    pub fn start(
        library: Option<&OsStr>,
        which: &Which,
        period: Micros,
        clock: Arc<dyn Clock>,
        sink: impl FnMut(Round) + Send + 'static,
    ) -> Result<Sampler, SamplerError> {
        let no_nvml = |error| SamplerError::NoNvml { why: gpu::explained(&error) };
        let nvml = gpu::open(library).map_err(no_nvml)?;
        let gpus = found(&nvml, which)?;
        let ((stop, stopped), (ending, ended)) = (sync_channel(0), sync_channel(0));
        let work = move || {
            run(nvml, &gpus, period, clock.as_ref(), &stopped, sink);
            drop(ending);
        };
        let thread = std::thread::Builder::new().name("nvml".into()).spawn(work).map_err(SamplerError::Thread)?;
        Ok(Sampler { stop: Some(stop), ended, thread: Some(thread) })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.ended.recv_timeout(STOP_MAX) == Err(RecvTimeoutError::Timeout) {
            // All that it uses is its own, so it can be left where it is.
            tracing::warn!(
                "the driver has not answered for {} s: the thread that watches the GPUs is left behind",
                STOP_MAX.as_secs()
            );
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that watched the GPUs had panicked; its samples end there");
        }
    }
}

/// A GPU's index and UUID; one that is lost already has none.
type Found = (u32, Option<Arc<str>>);

fn found(nvml: &Nvml, which: &Which) -> Result<Vec<Found>, SamplerError> {
    let no_nvml = |error| SamplerError::NoNvml { why: gpu::explained(&error) };
    let uuid = |index| nvml.device_by_index(index).and_then(|device| device.uuid()).ok().map(Arc::from);
    let all: Vec<Found> = (0..nvml.device_count().map_err(no_nvml)?).map(|index| (index, uuid(index))).collect();
    if all.is_empty() {
        return Err(SamplerError::NoNvml { why: "the NVIDIA driver reports no GPU".into() });
    }
    let Which::Uuids(wanted) = which else { return Ok(all) };
    for wanted in wanted {
        if !all.iter().any(|(_, uuid)| uuid.as_ref() == Some(wanted)) {
            let known = all.iter().map(|(index, uuid)| format!("GPU {index} ({})", uuid.as_deref().unwrap_or("lost")));
            return Err(SamplerError::NoSuchGpu { uuid: wanted.to_string(), known: known.collect() });
        }
    }
    Ok(all.into_iter().filter(|(_, uuid)| uuid.as_ref().is_some_and(|uuid| wanted.contains(uuid))).collect())
}

/// What stands for one GPU in every round.
enum Watched<'nvml> {
    Live(Box<Probe<'nvml>>),
    /// It was lost before it was ever read.
    Dead {
        index: u32,
        uuid: Arc<str>,
        told: bool,
    },
}

impl<'nvml> Watched<'nvml> {
    fn open(nvml: &'nvml Nvml, (index, uuid): &Found, now: Time) -> Watched<'nvml> {
        match (nvml.device_by_index(*index), uuid) {
            (Ok(device), Some(uuid)) => Watched::Live(Box::new(Probe::open(device, *index, uuid.clone(), now))),
            (_, uuid) => Watched::Dead { index: *index, uuid: uuid.clone().unwrap_or_else(|| "unknown".into()), told: false },
        }
    }

    fn needs_pcie_meter(&self) -> bool {
        matches!(self, Watched::Live(probe) if probe.needs_pcie_meter())
    }

    fn read(&mut self, clock: &dyn Clock, meter: bool, events: &mut Vec<GpuEvent>) -> GpuReading {
        match self {
            Watched::Live(probe) => probe.read(clock, meter, events),
            Watched::Dead { index, uuid, told } => {
                if !std::mem::replace(told, true) {
                    events.push(GpuEvent { gpu: *index, uuid: uuid.clone(), kind: GpuEventKind::Lost });
                }
                GpuReading { gpu: *index, uuid: uuid.clone(), lost: true, ..GpuReading::default() }
            }
        }
    }
}

/// Closes NVML at the end, which may hang as well.
fn run(nvml: Nvml, gpus: &[Found], period: Micros, clock: &dyn Clock, stopped: &Receiver<()>, mut sink: impl FnMut(Round) + Send) {
    let mut watched: Vec<Watched<'_>> = gpus.iter().map(|gpu| Watched::open(&nvml, gpu, clock.now())).collect();
    let mut due = clock.now();
    for turn in 0.. {
        // A reading that took longer than a period delays the next one and is not made up for.
        due = due.plus(period).max(clock.now());
        if stopped.recv_timeout(due.since(clock.now()).into()) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        // The PCIe meter blocks, so one GPU at a time has its turn; its figure stands until the next.
        let metered: Vec<usize> = (0..watched.len()).filter(|&i| watched[i].needs_pcie_meter()).collect();
        let metered = metered.get(turn % metered.len().max(1)).copied();
        let (at, mut events) = (clock.now(), Vec::new());
        let read = |(i, gpu): (usize, &mut Watched<'_>)| gpu.read(clock, Some(i) == metered, &mut events);
        let readings = watched.iter_mut().enumerate().map(read).collect();
        sink(Round { at, readings, events });
    }
}
