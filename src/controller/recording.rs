//! A recording in progress.

use crate::core::{EngineId, EngineStats, RequestError, RequestId, Role, Time};
use crate::telemetry::EngineSample;

use super::Recording;
use super::timeline::{RunLabel, Timeline};

/// Requests, and samples, that one recording keeps at most; further ones are counted and dropped.
const ENTRIES_MAX: usize = 1_000_000;

#[derive(Debug)]
pub(super) struct Tape {
    run: RunLabel,
    kept: Recording,
    dropped: u64,
}

impl Tape {
    pub fn new(arm: String, repetition: u32, origin: Time) -> Tape {
        Tape { run: RunLabel { arm, repetition, origin }, kept: Recording::default(), dropped: 0 }
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
            moves_in: 0,
        });
    }

    pub fn end(self) -> Recording {
        if self.dropped > 0 {
            tracing::warn!(arm = self.run.arm, dropped = self.dropped, "the recording was full at {ENTRIES_MAX} entries of a kind");
        }
        self.kept
    }
}
