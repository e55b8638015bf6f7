//! What becomes of the records of one arm while it is simulated: they are counted, written where they are wanted, and forgotten.

use dualpool_host::{Entry, Fold, Requests, Run, Samples};
use dualpool_report::simulated::Tally;
use dualpool_types::records::Sample;
use dualpool_types::{Failure, Micros, Time};

use super::output::Output;

/// How often queue depths are looked at, in the model's time.
pub(super) const SAMPLE_EVERY: Micros = Micros(100_000);

pub(super) struct Recorder<'a> {
    run: Run,
    requests: Requests,
    samples: Samples,
    tally: Tally,
    output: &'a mut Output,
    /// The first failure to write; nothing is written after it.
    failed: Option<Failure>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(arm: &str, output: &'a mut Output) -> Recorder<'a> {
        Recorder {
            run: Run::of(arm),
            requests: Requests::default(),
            samples: Samples::default(),
            tally: Tally::new(SAMPLE_EVERY),
            output,
            failed: None,
        }
    }

    pub(super) fn finish(self) -> Result<Tally, Failure> {
        self.failed.map_or(Ok(self.tally), Err)
    }

    fn write(&mut self, write: impl FnOnce(&mut Output) -> Result<(), Failure>) {
        if self.failed.is_none() {
            self.failed = write(self.output).err();
        }
    }
}

impl Fold for Recorder<'_> {
    fn entry(&mut self, at: Time, entry: &Entry<'_>) {
        if let Some(record) = self.requests.entry(at, entry, &self.run) {
            self.tally.request(&record);
            self.write(|output| output.request(&record));
        }
        if let Some(record) = self.run.note(at, entry) {
            self.tally.note(&record.note);
            self.write(|output| output.note(&record));
        }
        self.samples.entry(at, entry, &self.run, |sample| {
            if let Sample::Engine(sample) = sample {
                self.tally.sample(&sample);
            }
        });
    }
}
