//! The task that runs one virtual engine, and the handle to it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use dualpool_model::{FetchRequest, Fingerprint, Scheduler, VirtualSettings};
use dualpool_types::{Clock, EngineId, EngineInfo, KvSource, Leg, LegId, LegOutput, LegStep, Micros, TokenId, Tuning};

use super::inbox::{Command, Inbox};
use super::kv::{Fetched, Lender};
use super::mover::{Held, VirtualMover};
use crate::{Engine, EngineEvent, TokenizeError};

/// A handle to a virtual engine; clones share it. It starts with `VirtualEngines::start`.
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
        kv: Kv,
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
            prefix_caching: settings.prefix_cache,
            pid: None,
        };
        let core = Core {
            id,
            scheduler: Scheduler::new(settings),
            inbox: inbox.clone(),
            kv,
            unasked: HashMap::new(),
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

    fn detach(&self, leg: LegId) {
        self.inbox.push(Command::Detach(leg));
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

/// What stands behind the blocks of an engine.
pub(super) enum Kv {
    /// Nothing: a copy takes its time and hands a fingerprint over.
    Modelled(VirtualMover),
    /// Memory that the KV server copies.
    Lent(Lender),
}

enum End {
    Killed,
    Shutdown,
}

struct Core {
    id: EngineId,
    scheduler: Scheduler,
    inbox: Arc<Inbox>,
    kv: Kv,
    /// Legs with something to fetch that have not asked for it.
    unasked: HashMap<LegId, KvSource>,
    events: mpsc::Sender<EngineEvent>,
    clock: Arc<dyn Clock>,
    pace: Pace,
    /// Copies to this engine; at most one per leg on it.
    copies: JoinSet<(LegId, Fetched)>,
}

impl Core {
    async fn run(mut self) {
        let end = self.serve().await;
        self.inbox.close();
        if let Kv::Lent(lender) = self.kv {
            lender.close().await;
        }
        if let End::Killed = end {
            let died = EngineEvent::Died { engine: self.id, why: "killed".to_owned() };
            // Fails only when the fleet has shut down.
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
            for request in self.scheduler.take_fetches() {
                self.unasked.remove(&request.leg);
                self.fetch(request);
            }
            match step {
                Some(step) => tokio::select! {
                    () = self.pace.pass(step.takes) => {
                        let mut outputs = Vec::new();
                        self.scheduler.finish_step(&mut outputs);
                        self.emit(outputs.into_iter().map(LegOutput::from).collect()).await;
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

    fn fetch(&mut self, request: FetchRequest) {
        match &self.kv {
            Kv::Modelled(mover) => {
                let (mover, to) = (mover.clone(), self.id);
                self.copies.spawn(async move {
                    let (leg, kv) = mover.copy(request, to).await;
                    (leg, kv.map_or(Fetched::Nothing, Fetched::Kv))
                });
            }
            Kv::Lent(lender) => {
                let FetchRequest { leg, source } = request;
                // What must come is known: the prompt says it.
                let prompt = self.scheduler.fetching_prompt(leg).unwrap_or_default();
                let expected = Fingerprint::EMPTY.extend(&prompt[..prompt.len().min(source.tokens as usize)]);
                let lender = lender.clone();
                self.copies.spawn(async move { (leg, lender.fetch(leg, source, expected).await) });
            }
        }
    }

    fn copied(&mut self, done: Result<(LegId, Fetched), tokio::task::JoinError>) {
        match done {
            Ok((leg, Fetched::Kv(kv))) => self.scheduler.fetched(leg, Some(kv)),
            Ok((leg, Fetched::Nothing)) => self.scheduler.fetched(leg, None),
            Ok((leg, Fetched::Wrong(why))) => self.scheduler.fail(leg, why),
            // A copy that panicked leaves its leg waiting, which a test would show; there is nothing to hand over here.
            Err(_) => {}
        }
    }

    async fn take_commands(&mut self) -> Option<End> {
        for command in self.inbox.take() {
            match command {
                Command::Submit(leg) => {
                    self.unasked.extend(leg.kv_source.map(|source| (leg.id, source)));
                    self.scheduler.submit(leg);
                }
                Command::Abort(leg) => self.scheduler.abort(leg),
                Command::Detach(leg) => self.scheduler.detach(leg),
                Command::Tune(tuning) => self.scheduler.tune(tuning),
                Command::Release(leg) => {
                    if self.scheduler.release(leg) {
                        match &self.kv {
                            Kv::Modelled(mover) => mover.released(self.id, leg).await,
                            Kv::Lent(lender) => lender.released(leg),
                        }
                    }
                }
                Command::ResetPrefixCache(answer) => {
                    // The caller may no longer wait: fine.
                    let _ = answer.send(self.scheduler.reset_prefix_cache());
                }
                Command::Kill => return Some(End::Killed),
                Command::Shutdown => return Some(End::Shutdown),
            }
        }
        None
    }

    async fn emit(&mut self, mut outputs: Vec<LegOutput>) {
        for output in &mut outputs {
            let (leg, Some(finish)) = (output.leg, &mut output.finish) else { continue };
            if let (Some(source), Kv::Lent(lender)) = (self.unasked.remove(&leg), &self.kv) {
                lender.skip(leg, source);
            }
            if let (Some((tokens, blocks)), Some(kv)) = (self.scheduler.held_size(leg), self.scheduler.held(leg)) {
                match &self.kv {
                    Kv::Modelled(mover) => mover.held(self.id, leg, Held { tokens, blocks, kv }).await,
                    Kv::Lent(lender) if lender.hold(leg, tokens, kv).await => {}
                    Kv::Lent(_) => {
                        self.scheduler.release(leg);
                        finish.held = None;
                    }
                }
            }
        }
        let stats = Some(self.scheduler.stats());
        let step = LegStep { engine: self.id, core_at: self.clock.now(), outputs, stats };
        // Fails only when the fleet has shut down; the engine then runs on until it is shut down.
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
