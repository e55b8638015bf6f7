//! The task that runs one virtual engine, and the handle to it.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::core::{Clock, EngineId, Leg, LegId, LegOutput, LegStep, Micros, TokenId, Tuning};
use crate::engine::{Engine, EngineEvent, EngineInfo, TokenizeError};

use super::inbox::{Command, Inbox};
use super::mover::{Held, VirtualMover};
use super::scheduler::Scheduler;
use super::settings::VirtualSettings;
use super::text::Fingerprint;

/// A handle to a virtual engine; clones share it. It starts with `VirtualFleet::start`.
#[derive(Clone)]
pub struct VirtualEngine {
    info: EngineInfo,
    inbox: Arc<Inbox>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl VirtualEngine {
    pub(super) fn start(
        id: EngineId,
        settings: &VirtualSettings,
        inbox: Arc<Inbox>,
        mover: VirtualMover,
        events: mpsc::Sender<EngineEvent>,
        clock: Arc<dyn Clock>,
    ) -> VirtualEngine {
        let info = EngineInfo {
            id,
            device: "none (timing model)".to_owned(),
            model: "virtual".to_owned(),
            backend: concat!("virtual ", env!("CARGO_PKG_VERSION")).to_owned(),
            max_model_len: settings.max_model_len,
            vocab_size: settings.vocab_size,
            block_size: settings.block_size,
            kv_blocks: settings.kv_blocks,
            max_num_batched_tokens: settings.max_num_batched_tokens,
            max_num_seqs: settings.max_num_seqs,
            kv_transfer: true,
            pid: None,
        };
        let core = Core {
            id,
            scheduler: Scheduler::new(settings),
            inbox: inbox.clone(),
            mover,
            events,
            clock,
            pace: Pace { speed: settings.speed, debt_us: 0.0 },
            copies: JoinSet::new(),
        };
        VirtualEngine { info, inbox, task: Arc::new(Mutex::new(Some(tokio::spawn(core.run())))) }
    }

    /// Dies at once, as if its process were killed: in the middle of a step, with all it holds.
    pub fn kill(&self) {
        self.inbox.push(Command::Kill);
    }
}

#[async_trait::async_trait]
impl Engine for VirtualEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn submit(&self, leg: Leg) {
        self.inbox.push(Command::Submit(leg));
    }

    fn abort(&self, leg: LegId) {
        self.inbox.push(Command::Abort(leg));
    }

    fn tune(&self, tuning: Tuning) -> anyhow::Result<()> {
        self.inbox.push(Command::Tune(tuning));
        Ok(())
    }

    async fn reset_prefix_cache(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.inbox.push(Command::ResetPrefixCache(answer));
        // A dead engine has no cache.
        answered.await.unwrap_or(true)
    }

    async fn tokenize(&self, _text: &str) -> Result<Vec<TokenId>, TokenizeError> {
        Err(TokenizeError::NoTokenizer { engine: self.info.id })
    }

    async fn shutdown(&self) {
        self.inbox.push(Command::Shutdown);
        if let Some(task) = self.task.lock().await.take() {
            // An error means that the task panicked: it is over either way.
            let _ = task.await;
        }
    }
}

enum End {
    Killed,
    Shutdown,
}

struct Core {
    id: EngineId,
    scheduler: Scheduler,
    inbox: Arc<Inbox>,
    mover: VirtualMover,
    events: mpsc::Sender<EngineEvent>,
    clock: Arc<dyn Clock>,
    pace: Pace,
    /// Copies to this engine; at most one per leg on it.
    copies: JoinSet<(LegId, Option<Fingerprint>)>,
}

impl Core {
    async fn run(mut self) {
        let end = self.serve().await;
        self.inbox.close();
        if let End::Killed = end {
            let died = EngineEvent::Died { engine: self.id, why: "killed".to_owned() };
            // Fails only when the controller is gone.
            let _ = self.events.send(died).await;
        }
    }

    async fn serve(&mut self) -> End {
        loop {
            if let Some(end) = self.take_commands().await {
                return end;
            }
            while let Some(done) = self.copies.try_join_next() {
                self.copied(done);
            }
            let ended = self.scheduler.take_ended();
            if !ended.is_empty() {
                self.emit(ended).await;
            }
            let step = self.scheduler.begin_step();
            for load in self.scheduler.take_loads() {
                let (mover, to) = (self.mover.clone(), self.id);
                self.copies.spawn(async move { mover.copy(load, to).await });
            }
            match step {
                Some(step) => tokio::select! {
                    () = self.pace.pass(step.takes) => {
                        let (outputs, _) = self.scheduler.finish_step();
                        self.emit(outputs).await;
                    }
                    // Whatever the engine was computing is lost.
                    () = self.inbox.ends() => {}
                },
                None => tokio::select! {
                    () = self.inbox.rung() => {}
                    Some(done) = self.copies.join_next() => self.copied(done),
                },
            }
        }
    }

    fn copied(&mut self, done: Result<(LegId, Option<Fingerprint>), tokio::task::JoinError>) {
        // A copy that panicked leaves its leg waiting, which a test would show; there is nothing to hand over here.
        if let Ok((leg, kv)) = done {
            self.scheduler.loaded(leg, kv);
        }
    }

    async fn take_commands(&mut self) -> Option<End> {
        for command in self.inbox.take() {
            match command {
                Command::Submit(leg) => self.scheduler.submit(leg),
                Command::Abort(leg) => self.scheduler.abort(leg),
                Command::Tune(tuning) => self.scheduler.tune(tuning),
                Command::Release(leg) => {
                    if self.scheduler.release(leg) {
                        self.mover.released(self.id, leg).await;
                    }
                }
                Command::ResetPrefixCache(answer) => {
                    // Nobody waits any more: fine.
                    let _ = answer.send(self.scheduler.is_idle());
                }
                Command::Kill => return Some(End::Killed),
                Command::Shutdown => return Some(End::Shutdown),
            }
        }
        None
    }

    async fn emit(&mut self, outputs: Vec<LegOutput>) {
        for output in outputs.iter().filter(|output| output.finish.as_ref().is_some_and(|finish| finish.held.is_some())) {
            if let (Some((tokens, blocks)), Some(kv)) = (self.scheduler.held_size(output.leg), self.scheduler.held(output.leg)) {
                self.mover.held(self.id, output.leg, Held { tokens, blocks, kv }).await;
            }
        }
        let stats = Some(self.scheduler.stats());
        let step = LegStep { engine: self.id, core_at: self.clock.now(), outputs, stats };
        // Fails only when the controller is gone; the engine then runs on until it is shut down.
        let _ = self.events.send(EngineEvent::Step(step)).await;
    }
}

/// Lets model time pass. Timers are good to a millisecond, so shorter spans are saved up.
struct Pace {
    speed: f64,
    debt_us: f64,
}

impl Pace {
    async fn pass(&mut self, span: Micros) {
        self.debt_us += span.0 as f64 / self.speed;
        if self.debt_us < 1_000.0 {
            return tokio::task::yield_now().await;
        }
        let started = tokio::time::Instant::now();
        tokio::time::sleep(Micros(self.debt_us as u64).into()).await;
        // Oversleeping is paid back, but an engine never runs ahead of its time by more than a step.
        self.debt_us = (self.debt_us - Micros::from(started.elapsed()).0 as f64).max(-(span.0 as f64) / self.speed);
    }
}
