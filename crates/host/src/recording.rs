//! What is kept of a run: records, samples and notes, as many as there is room for.

use dualpool_router::Event;
use dualpool_types::records::{EngineSample, GpuSample, NoteRecord, RequestRecord, Sample};
use dualpool_types::{EngineId, Time};

use crate::{Entry, Fold, Requests, Run, Samples};

/// Entries of each kind that one recording keeps at most; further ones are counted and dropped.
const ENTRIES_MAX: usize = 1_000_000;

/// What a recording holds: the requests that ended and the samples taken since it was started.
#[derive(Debug, Default)]
pub struct Recording {
    pub requests: Vec<RequestRecord>,
    pub samples: Vec<EngineSample>,
    /// Empty where no GPU is watched.
    pub gpus: Vec<GpuSample>,
    /// What the router noted of its decisions.
    pub notes: Vec<NoteRecord>,
    /// Engines that took no requests at some time of it, because they were drained.
    pub drained: Vec<EngineId>,
}

/// Follows every request, and keeps what belongs to the recording that is under way, if one is.
#[derive(Debug, Default)]
pub struct Recorder {
    requests: Requests,
    run: Option<Run>,
    samples: Samples,
    kept: Recording,
    dropped: u64,
}

impl Recorder {
    /// Starts a recording, and drops what was recorded before. These engines are drained already.
    pub fn start(&mut self, run: Run, drained: Vec<EngineId>) {
        let requests = std::mem::take(&mut self.requests);
        *self = Recorder { requests, run: Some(run), kept: Recording { drained, ..Recording::default() }, ..Recorder::default() };
    }

    /// Ends the recording and hands it over; without one it is empty.
    pub fn end(&mut self) -> Recording {
        let run = self.run.take();
        if let (Some(run), dropped @ 1..) = (run, std::mem::take(&mut self.dropped)) {
            tracing::warn!(arm = run.arm, dropped, "the recording was full at {ENTRIES_MAX} entries of a kind");
        }
        std::mem::take(&mut self.kept)
    }
}

impl Fold for Recorder {
    fn entry(&mut self, at: Time, entry: &Entry<'_>) {
        let Recorder { requests, run, samples, kept, dropped } = self;
        let no_run = Run::default();
        let ended = requests.entry(at, entry, run.as_ref().unwrap_or(&no_run));
        let Some(run) = run else { return };
        keep(&mut kept.requests, ended, dropped);
        keep(&mut kept.notes, run.note(at, entry), dropped);
        samples.entry(at, entry, run, |sample| match sample {
            Sample::Engine(sample) => keep(&mut kept.samples, [sample], dropped),
            Sample::Gpu(sample) => keep(&mut kept.gpus, [*sample], dropped),
        });
        if let Entry::Event(&Event::Drain { engine }) = *entry
            && !kept.drained.contains(&engine)
        {
            kept.drained.push(engine);
        }
    }
}

fn keep<T>(kept: &mut Vec<T>, entries: impl IntoIterator<Item = T>, dropped: &mut u64) {
    for entry in entries {
        if kept.len() < ENTRIES_MAX {
            kept.push(entry);
        } else {
            *dropped += 1;
        }
    }
}
