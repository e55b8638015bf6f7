//! What becomes of the records of one arm while it is simulated: they are counted, written where they are wanted, and forgotten.

use dualpool_report::simulated::Tally;
use dualpool_sim::Observer;
use dualpool_types::records::{EngineSample, NoteRecord, RequestRecord, RouterNote};
use dualpool_types::{Failure, Micros};

use super::output::Output;

/// How often queue depths are looked at, in the model's time.
const SAMPLE_EVERY: Micros = Micros(100_000);

pub struct Recorder<'a> {
    arm: &'a str,
    tally: Tally,
    output: &'a mut Output,
    /// The first failure to write; nothing is written after it.
    failed: Option<Failure>,
}

impl<'a> Recorder<'a> {
    pub fn new(arm: &'a str, output: &'a mut Output) -> Recorder<'a> {
        Recorder { arm, tally: Tally::new(SAMPLE_EVERY), output, failed: None }
    }

    pub fn finish(self) -> Result<Tally, Failure> {
        self.failed.map_or(Ok(self.tally), Err)
    }

    fn write(&mut self, write: impl FnOnce(&mut Output) -> Result<(), Failure>) {
        if self.failed.is_none() {
            self.failed = write(self.output).err();
        }
    }
}

impl Observer for Recorder<'_> {
    fn request(&mut self, record: RequestRecord) {
        self.tally.request(&record);
        self.write(|output| output.request(&record));
    }

    fn note(&mut self, at_us: Micros, note: RouterNote) {
        self.tally.note(&note);
        let record = NoteRecord { arm: self.arm.to_string(), repetition: 0, at_us, note };
        self.write(|output| output.note(&record));
    }

    fn sample_every(&self) -> Option<Micros> {
        Some(SAMPLE_EVERY)
    }

    fn sample(&mut self, sample: EngineSample) {
        self.tally.sample(&sample);
    }
}
