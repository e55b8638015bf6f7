//! The GPUs under the engines: their rounds on the way to the router and the recording, and what of them a reader of the run should know.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use dualpool_machine::nvml::{GpuEvent, Round, Sampler, SamplerError, Which};
use dualpool_types::records::{GpuReading, Throttle};
use dualpool_types::{Clock, DeviceSignals, EngineId, Micros};

/// Rounds that the fleet has not taken yet; the sampler drops, and counts, those that find the queue full.
const ROUNDS_MAX: usize = 64;

/// Events that are kept for the notes, or for want of room in the queue; further ones are in the log alone.
const EVENTS_MAX: usize = 32;

/// The sampled GPUs of a fleet.
#[derive(Debug)]
pub struct GpuWatch {
    rounds: mpsc::Receiver<Round>,
    dropped: Arc<AtomicU64>,
    /// The GPU of each engine, by `EngineId`; none for an engine on another kind of device.
    uuids: Vec<Option<Arc<str>>>,
    events: Vec<GpuEvent>,
    slowed: BTreeMap<u32, Slowed>,
    // Dropping it ends its thread.
    _sampler: Sampler,
}

/// How often a GPU was slowed down, and by what.
#[derive(Debug, Default)]
struct Slowed {
    rounds: u64,
    slowed: u64,
    reasons: Vec<Throttle>,
}

impl GpuWatch {
    /// Samples the GPUs with these UUIDs, one per engine; none for an engine without a GPU. `library` is the NVML library to load;
    /// none = where the system's loader finds it.
    pub fn start(
        library: Option<&OsStr>,
        uuids: Vec<Option<Arc<str>>>,
        period: Micros,
        clock: Arc<dyn Clock>,
    ) -> Result<GpuWatch, SamplerError> {
        let (sender, rounds) = mpsc::channel(ROUNDS_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let sink = sink(sender, dropped.clone());
        let mut wanted: Vec<Arc<str>> = uuids.iter().flatten().cloned().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let sampler = Sampler::start(library, &Which::Uuids(wanted), period, clock, sink)?;
        Ok(GpuWatch { rounds, dropped, uuids, events: Vec::new(), slowed: BTreeMap::new(), _sampler: sampler })
    }

    /// The next round; for ever none once the sampler has failed.
    pub(super) async fn next(&mut self) -> Option<Round> {
        self.rounds.recv().await
    }

    pub(super) fn engines(&self, uuid: &str) -> Vec<EngineId> {
        let here = |(_, of): &(EngineId, &Option<Arc<str>>)| of.as_deref() == Some(uuid);
        (0..).map(EngineId).zip(&self.uuids).filter(here).map(|(engine, _)| engine).collect()
    }

    /// Keeps what the notes need.
    pub(super) fn saw(&mut self, round: &Round) {
        for event in &round.events {
            tracing::warn!("{event}");
            if self.events.len() < EVENTS_MAX {
                self.events.push(event.clone());
            }
        }
        for reading in &round.readings {
            let Some(slowed) = reading.slowed() else { continue };
            let tally = self.slowed.entry(reading.gpu).or_default();
            tally.rounds += 1;
            tally.slowed += u64::from(slowed);
            for &reason in reading.throttle.iter().flatten().filter(|reason| reason.slows()) {
                if !tally.reasons.contains(&reason) {
                    tally.reasons.push(reason);
                }
            }
        }
    }

    /// What a reader of the figures should know of the GPUs.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.events.iter().map(|event| format!("{event}.")).collect();
        for (gpu, Slowed { rounds, slowed, reasons }) in self.slowed.iter().filter(|(_, tally)| tally.slowed > 0) {
            let mut why = String::new();
            for (i, reason) in reasons.iter().enumerate() {
                // Writing to a String cannot fail.
                let _ = write!(why, "{}{reason}", if i == 0 { "" } else { ", " });
            }
            notes.push(format!("GPU {gpu} was slowed down in {slowed} of {rounds} samples: {why}."));
        }
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            notes.push(format!("{dropped} rounds of GPU samples were dropped because dualpool was busy."));
        }
        notes
    }
}

/// Puts rounds into the queue. What happened is told once, so the events of a round that finds no room go with the next one that does.
fn sink(sender: mpsc::Sender<Round>, dropped: Arc<AtomicU64>) -> impl FnMut(Round) + Send + 'static {
    let mut missed: Vec<GpuEvent> = Vec::new();
    move |mut round| {
        round.events.splice(0..0, missed.drain(..));
        if let Err(mpsc::error::TrySendError::Full(round)) = sender.try_send(round) {
            dropped.fetch_add(1, Ordering::Relaxed);
            missed = round.events;
            missed.drain(missed.len().min(EVENTS_MAX)..).for_each(|event| tracing::warn!("{event}"));
        }
    }
}

/// What the router is told of a GPU.
pub(super) fn signals(reading: &GpuReading) -> DeviceSignals {
    DeviceSignals { busy: reading.sm_util, memory_free: reading.hbm_free, slowed: reading.slowed(), lost: reading.lost }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_machine::nvml::GpuEventKind;
    use dualpool_types::Time;

    #[test]
    fn what_happened_to_a_gpu_survives_a_full_queue() {
        let (sender, mut rounds) = mpsc::channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut sink = sink(sender, dropped.clone());
        let mut round = |codes: std::ops::Range<u64>| {
            let event = |code| GpuEvent { gpu: 0, uuid: "GPU-0".into(), kind: GpuEventKind::Xid(Some(code)) };
            sink(Round { at: Time(0), readings: vec![], events: codes.map(event).collect() });
        };
        let mut taken = || {
            let events = rounds.try_recv().unwrap().events;
            events.iter().map(|event| event.kind.clone()).collect::<Vec<_>>()
        };
        let xids = |codes: std::ops::Range<u64>| codes.map(|code| GpuEventKind::Xid(Some(code))).collect::<Vec<_>>();
        round(0..1);
        round(1..3);
        round(3..4);
        assert_eq!((taken(), dropped.load(Ordering::Relaxed)), (xids(0..1), 2));
        round(4..5);
        assert_eq!(taken(), xids(1..5), "in their order, and once");
        round(5..6);
        round(6..1_000);
        taken();
        round(0..0);
        assert_eq!(taken().len(), EVENTS_MAX);
    }
}
