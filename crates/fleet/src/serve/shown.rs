//! The samples of a recording while it goes on: what `dualpool top` makes its picture of.

use tokio::sync::mpsc;

use dualpool_host::{Entry, Fold, Run, Samples};
use dualpool_types::Time;
use dualpool_types::records::Sample;

/// Shows the samples of the run under way, in batches, to one follower at a time.
#[derive(Debug, Default)]
pub(super) struct Shown {
    run: Option<Run>,
    samples: Samples,
    batch: Vec<Sample>,
    follower: Option<mpsc::Sender<Vec<Sample>>>,
}

impl Shown {
    pub(super) fn start(&mut self, run: Run) {
        (self.run, self.samples, self.batch) = (Some(run), Samples::default(), Vec::new());
    }

    pub(super) fn end(&mut self) {
        self.run = None;
    }

    pub(super) fn follow(&mut self, follower: mpsc::Sender<Vec<Sample>>) {
        self.follower = Some(follower);
    }
}

impl Fold for Shown {
    fn entry(&mut self, at: Time, entry: &Entry<'_>) {
        let (Some(run), Some(follower)) = (&self.run, &self.follower) else { return };
        self.samples.entry(at, entry, run, |sample| self.batch.push(sample));
        if let Entry::Sampled(_) = entry {
            // A follower that is behind misses these; one that is gone misses nothing.
            let _ = follower.try_send(std::mem::take(&mut self.batch));
        }
    }
}
