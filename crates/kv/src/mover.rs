//! The thread that owns the transport: it maps engines' memory, makes copy plans and executes them, one after the other. Work comes
//! in through a bounded queue; what became of it goes out through a callback.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use dualpool_cuda::nvtx::Range;
use dualpool_types::{Bytes, Clock, EngineId, Micros, Time};

use super::copy_plan::{BlockPair, ByteRange, copy_plan, total_bytes};
use super::memory::KvMap;
use super::transport::{Memory, Stop, Transport};
use super::verify::verify;

/// Jobs that may wait for the mover. A copy that finds the queue full fails, and its engine computes the prompt itself.
pub(crate) const MOVER_JOBS_MAX: usize = 1024;
/// Copies that are stopped end within milliseconds. When the thread is not over by then, it is said that it is waited for.
const SLOW: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) enum Job {
    Map { engine: EngineId, memory: Memory },
    Unmap { engine: EngineId },
    Copy(CopyJob),
}

#[derive(Debug)]
pub(crate) struct CopyJob {
    /// Chosen by the caller; comes back with the outcome.
    pub id: u64,
    pub from: Arc<KvMap>,
    pub to: Arc<KvMap>,
    /// By KV group.
    pub pairs: Vec<Vec<BlockPair>>,
    /// When it was handed to the mover.
    pub queued: Time,
    pub stop: Arc<Stop>,
}

#[derive(Debug)]
pub(crate) enum Done {
    Mapped { engine: EngineId, result: Result<(), String> },
    Unmapped { engine: EngineId },
    Copied { id: u64, copied: Copied },
}

#[derive(Debug, PartialEq)]
pub(crate) struct Copied {
    /// In the mover's queue, behind other engines' copies; no part of `copy`.
    pub waited: Micros,
    pub started: Time,
    pub copy: Micros,
    pub bytes: Bytes,
    pub byte_ranges: u32,
    pub result: Result<(), String>,
}

pub(crate) struct Mover {
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
    /// Disconnected when the thread is over; nothing is ever sent.
    over: Receiver<Infallible>,
}

/// What the mover does beside copying.
pub(crate) struct MoverOptions {
    pub verify: bool,
    pub clock: Arc<dyn Clock>,
}

impl Mover {
    pub(crate) fn start(
        transport: Box<dyn Transport>,
        options: MoverOptions,
        done: impl Fn(Done) + Send + 'static,
    ) -> std::io::Result<Mover> {
        let (jobs, queue) = sync_channel(MOVER_JOBS_MAX);
        let (alive, over) = sync_channel(0);
        let work = move || {
            let _alive = alive;
            run(transport, &options, &queue, &done);
        };
        let thread = std::thread::Builder::new().name("kv-mover".into()).spawn(work)?;
        Ok(Mover { jobs, thread, over })
    }

    /// Queues a job; gives it back when the queue is full.
    pub(crate) fn queue(&self, job: Job) -> Result<(), Job> {
        self.jobs.try_send(job).map_err(|(TrySendError::Full(job) | TrySendError::Disconnected(job))| job)
    }

    /// Finishes what is queued and ends the thread; all memory is unmapped then. Waits as long as that takes: to end while a copy goes on
    /// would leave it without the memory that it touches.
    pub(crate) fn join(self) {
        drop(self.jobs);
        if self.over.recv_timeout(SLOW) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                "the KV mover thread did not end within {SLOW:?}: a copy, or letting go of memory, takes longer; waiting for it"
            );
        }
        if self.thread.join().is_err() {
            tracing::error!("the KV mover thread panicked");
        }
    }
}

fn run(mut transport: Box<dyn Transport>, options: &MoverOptions, queue: &Receiver<Job>, done: &dyn Fn(Done)) {
    for job in queue {
        match job {
            Job::Map { engine, memory } => {
                let result = transport.map(engine, memory).map_err(|e| e.to_string());
                done(Done::Mapped { engine, result });
            }
            Job::Unmap { engine } => {
                transport.unmap(engine);
                done(Done::Unmapped { engine });
            }
            Job::Copy(job) => {
                let copied = execute(transport.as_mut(), options, &job);
                done(Done::Copied { id: job.id, copied });
            }
        }
    }
}

fn execute(transport: &mut dyn Transport, options: &MoverOptions, job: &CopyJob) -> Copied {
    let started = options.clock.now();
    let (spans, result) = match copy_plan(&job.from, &job.to, &job.pairs) {
        Ok(spans) => {
            let result = carry_out(transport, options, job, &spans);
            (spans, result)
        }
        Err(error) => (Vec::new(), Err(error.to_string())),
    };
    Copied {
        waited: started.since(job.queued),
        started,
        copy: options.clock.now().since(started),
        bytes: Bytes(if result.is_ok() { total_bytes(&spans) } else { 0 }),
        byte_ranges: u32::try_from(spans.len()).unwrap_or(u32::MAX),
        result,
    }
}

fn carry_out(transport: &mut dyn Transport, options: &MoverOptions, job: &CopyJob, spans: &[ByteRange]) -> Result<(), String> {
    let (from, to) = (job.from.engine, job.to.engine);
    let _copying = Range::begin(|| format!("copy {from} > {to}"));
    transport.copy(spans, from, to, &job.stop).map_err(|e| e.to_string())?;
    if options.verify {
        verify(transport, spans, from, to, &job.stop).map_err(|e| e.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::map;
    use super::super::transport::TransportError;
    use super::*;
    use dualpool_types::{BlockId, ManualClock};
    use std::collections::BTreeMap;
    use std::sync::mpsc;

    /// What a transport does wrong.
    #[derive(Clone, Copy, PartialEq)]
    enum Wrong {
        Nothing,
        /// The last byte of every span is not copied, and it does not say so.
        LosesBytes,
        /// Half of the spans are copied.
        FailsHalfway,
        /// The copy takes an hour.
        Dawdles,
    }

    /// Memory in plain vectors: the mover needs no shared memory.
    struct Vectors {
        memory: BTreeMap<EngineId, Vec<u8>>,
        wrong: Wrong,
    }

    impl Transport for Vectors {
        fn map(&mut self, engine: EngineId, _: Memory) -> Result<(), TransportError> {
            Err(TransportError::NotMapped { engine })
        }
        fn unmap(&mut self, engine: EngineId) {
            self.memory.remove(&engine);
        }
        fn copy(&mut self, plan: &[ByteRange], from: EngineId, to: EngineId, stop: &Stop) -> Result<(), TransportError> {
            if self.wrong == Wrong::Dawdles {
                stop.wait(Duration::from_secs(3600));
            }
            if stop.is_set() {
                return Err(TransportError::Stopped);
            }
            let spans = if self.wrong == Wrong::FailsHalfway { &plan[..plan.len() / 2] } else { plan };
            for span in spans {
                let lost = usize::from(self.wrong == Wrong::LosesBytes);
                let (s, t, n) = (span.source as usize, span.target as usize, span.length as usize - lost);
                let bytes = self.memory[&from][s..s + n].to_vec();
                self.memory.get_mut(&to).unwrap()[t..t + n].copy_from_slice(&bytes);
            }
            match self.wrong {
                Wrong::FailsHalfway => Err(TransportError::Failed { from, to, why: "half of it is there".into() }),
                _ => Ok(()),
            }
        }
        fn checksum(
            &mut self,
            engine: EngineId,
            ranges: &mut dyn Iterator<Item = (u64, u64)>,
            _: &Stop,
        ) -> Result<u64, TransportError> {
            let bytes = &self.memory[&engine];
            Ok(ranges.flat_map(|(o, n)| &bytes[o as usize..(o + n) as usize]).fold(7, |sum, b| sum * 31 % 65_521 + u64::from(*b)))
        }
    }

    fn copied(wrong: Wrong, verify: bool, stop: bool) -> Copied {
        let (from, to) = (Arc::new(map(0, 4, 64)), Arc::new(map(1, 4, 64)));
        let memory = [(EngineId(0), vec![9; 512]), (EngineId(1), vec![0; 512])].into();
        let (send, done) = mpsc::channel();
        let clock = Arc::new(ManualClock::default());
        clock.set(Time(5));
        let options = MoverOptions { verify, clock };
        let mover = Mover::start(Box::new(Vectors { memory, wrong }), options, move |d| send.send(d).unwrap()).unwrap();
        let pairs = vec![[0, 2, 3].map(|b| BlockPair { source: BlockId(b), target: BlockId(b) }).to_vec()];
        let job = CopyJob { id: 5, from, to, pairs, queued: Time(2), stop: Arc::default() };
        if stop {
            job.stop.set();
        }
        mover.queue(Job::Copy(job)).unwrap();
        let Done::Copied { id: 5, copied } = done.recv().unwrap() else { panic!("not our copy") };
        mover.join();
        copied
    }

    #[test]
    fn copies_and_reports() {
        let good = copied(Wrong::Nothing, true, false);
        // Two layers of blocks 0 and 2..4, of which the first layer's end and the second one's start touch.
        assert_eq!((good.bytes, good.byte_ranges, good.result), (Bytes(3 * 2 * 64), 3, Ok(())));
        assert_eq!(
            (good.waited, good.started, good.copy),
            (Micros(3), Time(5), Micros(0)),
            "the wait for the mover is no part of the copy"
        );
    }

    #[test]
    fn what_a_transport_does_wrong_is_reported() {
        let silent = copied(Wrong::LosesBytes, false, false);
        assert_eq!((silent.bytes, silent.result), (Bytes(3 * 2 * 64), Ok(())), "without a check nothing tells");
        let failed = copied(Wrong::FailsHalfway, true, false);
        assert!(failed.result.unwrap_err().contains("half of it is there") && failed.bytes == Bytes(0));
        // Stopped at once, a copy of an hour does not hold the test up.
        let stopped = copied(Wrong::Dawdles, true, true);
        assert!(stopped.result.unwrap_err().contains("stopped"));
    }

    #[test]
    fn a_copy_that_loses_bytes_is_found() {
        assert!(copied(Wrong::LosesBytes, true, false).result.unwrap_err().contains("checksums differ"));
    }
}
