//! How engines and GPUs were doing, from time to time.

use dualpool_types::Time;
use dualpool_types::records::{EngineSample, GpuSample, Sample};

use crate::{Entry, Run};

/// Makes a sample of every engine that is looked at, and of every reading of a GPU.
#[derive(Debug, Default)]
pub struct Samples {
    /// KV moves into each engine so far, by `EngineId`.
    transfers_in: Vec<u64>,
}

impl Samples {
    pub fn entry(&mut self, at: Time, entry: &Entry<'_>, run: &Run, mut each: impl FnMut(Sample)) {
        let Run { arm, repetition, .. } = run;
        match *entry {
            Entry::Copied(copied) => {
                let to = copied.to.index();
                self.transfers_in.resize(self.transfers_in.len().max(to + 1), 0);
                self.transfers_in[to] += 1;
            }
            Entry::Sampled(engines) => {
                for engine in engines {
                    let stats = engine.stats();
                    each(Sample::Engine(EngineSample {
                        arm: arm.clone(),
                        repetition: *repetition,
                        at_us: run.since(at),
                        engine: engine.id,
                        role: engine.role,
                        waiting: engine.demand.waiting as u32,
                        running: engine.demand.running as u32,
                        kv_usage: stats.map(|stats| stats.kv_usage),
                        prefix_hits: stats.map(|stats| stats.prefix_hits),
                        transfers_in: self.transfers_in.get(engine.id.index()).copied().unwrap_or(0),
                    }));
                }
            }
            Entry::Gpu(engines, reading) => {
                let (arm, engines, reading) = (arm.clone(), engines.to_vec(), reading.clone());
                each(Sample::Gpu(Box::new(GpuSample { arm, repetition: *repetition, at_us: run.since(at), engines, reading })));
            }
            Entry::Event(_) | Entry::Action(..) | Entry::Facts(..) | Entry::Computed(_) => {}
        }
    }
}
