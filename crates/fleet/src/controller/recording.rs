//! A recording in progress.

use std::collections::HashMap;

use dualpool_types::records::{EngineSample, GpuReading, GpuSample, NoteRecord, RouterNote, Sample};
use dualpool_types::{EngineId, EngineStats, RequestError, RequestId, Role, Time};

use super::Recording;
use super::timeline::{RunLabel, Timeline};

/// Requests, and samples, that one recording keeps at most; further ones are counted and dropped.
const ENTRIES_MAX: usize = 1_000_000;

#[derive(Debug)]
pub(super) struct Tape {
    run: RunLabel,
    kept: Recording,
    dropped: u64,
    /// KV moves into each engine so far.
    moves_in: HashMap<EngineId, u64>,
    /// Samples that `fresh` has given out: of engines, and of GPUs.
    shown: (usize, usize),
}

impl Tape {
    pub fn new(arm: String, repetition: u32, origin: Time) -> Tape {
        Tape {
            run: RunLabel { arm, repetition, origin },
            kept: Recording::default(),
            dropped: 0,
            moves_in: HashMap::new(),
            shown: (0, 0),
        }
    }

    pub fn request(&mut self, id: RequestId, timeline: Timeline, ended: Time, result: &Result<(), RequestError>) {
        if self.kept.requests.len() < ENTRIES_MAX {
            self.kept.requests.push(timeline.record(id, ended, result, &self.run));
        } else {
            self.dropped += 1;
        }
    }

    pub fn sample(&mut self, at: Time, engine: EngineId, role: Role, depth: (u64, u64), stats: Option<&EngineStats>) {
        if self.kept.samples.len() >= ENTRIES_MAX {
            self.dropped += 1;
            return;
        }
        self.kept.samples.push(EngineSample {
            arm: self.run.arm.clone(),
            repetition: self.run.repetition,
            at_us: at.since(self.run.origin),
            engine,
            role,
            waiting: depth.0 as u32,
            running: depth.1 as u32,
            kv_usage: stats.map(|stats| stats.kv_usage),
            prefix_hits: stats.map(|stats| stats.prefix_hits),
            moves_in: self.moves_in.get(&engine).copied().unwrap_or(0),
        });
    }

    pub fn gpu(&mut self, at: Time, engines: Vec<EngineId>, reading: GpuReading) {
        if self.kept.gpus.len() >= ENTRIES_MAX {
            self.dropped += 1;
            return;
        }
        let RunLabel { arm, repetition, origin } = &self.run;
        let (arm, repetition, at_us) = (arm.clone(), *repetition, at.since(*origin));
        self.kept.gpus.push(GpuSample { arm, repetition, at_us, engines, reading });
    }

    /// The router noted something.
    pub fn note(&mut self, at: Time, note: RouterNote) {
        if self.kept.notes.len() >= ENTRIES_MAX {
            self.dropped += 1;
            return;
        }
        let RunLabel { arm, repetition, origin } = &self.run;
        self.kept.notes.push(NoteRecord { arm: arm.clone(), repetition: *repetition, at_us: at.since(*origin), note });
    }

    /// The engine takes no requests.
    pub fn drained(&mut self, engine: EngineId) {
        if !self.kept.drained.contains(&engine) {
            self.kept.drained.push(engine);
        }
    }

    /// A KV move into this engine succeeded.
    pub fn moved(&mut self, to: EngineId) {
        *self.moves_in.entry(to).or_default() += 1;
    }

    /// The samples that came since this was called last.
    pub fn fresh(&mut self) -> Vec<Sample> {
        let (engines, gpus) = self.shown;
        self.shown = (self.kept.samples.len(), self.kept.gpus.len());
        let gpus = self.kept.gpus[gpus..].iter().cloned().map(|gpu| Sample::Gpu(Box::new(gpu)));
        self.kept.samples[engines..].iter().cloned().map(Sample::Engine).chain(gpus).collect()
    }

    pub fn end(self) -> Recording {
        if self.dropped > 0 {
            tracing::warn!(arm = self.run.arm, dropped = self.dropped, "the recording was full at {ENTRIES_MAX} entries of a kind");
        }
        self.kept
    }
}
