//! The one task that owns the router: whatever happens comes to it in turn, so nothing in it is locked. Engines, the mover and clients are
//! the host's backend here, and what they do is fed in as it comes.

mod backend;
mod drains;
mod phases;
mod shown;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use dualpool_engine::{EngineEvent, EngineEvents, Engines};
use dualpool_host::{Copied, Entry, Facts, Fold, Host, Recorder, Recording, Run};
use dualpool_kv::{KvEvent, KvMover};
use dualpool_machine::nvml::Round;
use dualpool_router::{CostModel, EngineFacts, EngineState, Event, RouterSettings};
use dualpool_types::records::Sample;
use dualpool_types::{Arrangement, Clock, EngineId, LegStep, RejectReason, Request, RequestError, RequestId, Time};

use crate::fleet::Unsettled;
use crate::gpus::{self, GpuWatch};
use crate::request::Reply;
use backend::{Serving, send};
use drains::Drains;
use phases::Phases;
use shown::Shown;

pub(crate) enum Command {
    Submit {
        request: Request,
        facts: Facts,
        replies: mpsc::Sender<Reply>,
    },
    /// Fails with an `ArrangementError`, or with what kept an engine from taking its settings.
    Arrange(Arrangement, oneshot::Sender<anyhow::Result<()>>),
    Record(Run, oneshot::Sender<()>),
    Recorded(oneshot::Sender<Recording>),
    WatchGpus(Box<GpuWatch>, oneshot::Sender<()>),
    NoteGpus(String, oneshot::Sender<()>),
    GpuNotes(oneshot::Sender<Vec<String>>),
    Follow(mpsc::Sender<Vec<Sample>>, oneshot::Sender<()>),
    Condition(oneshot::Sender<Condition>),
    Costs(oneshot::Sender<CostModel>),
    SetCosts(CostModel, oneshot::Sender<()>),
    PrefixCacheReset(EngineId, oneshot::Sender<()>),
    /// Answered when the engine is empty, or will not come to be.
    Drain(EngineId, oneshot::Sender<anyhow::Result<()>>),
    Undrain(EngineId, oneshot::Sender<()>),
    Shutdown(oneshot::Sender<()>),
}

/// How things stand.
pub(crate) struct Condition {
    pub unsettled: Unsettled,
    pub dead: Vec<EngineId>,
    pub cut: Vec<EngineId>,
}

/// What is made of all that happens.
#[derive(Default)]
struct Folds {
    recorder: Recorder,
    shown: Shown,
    phases: Phases,
    drains: Drains,
}

impl Fold for Folds {
    fn entry(&mut self, at: Time, entry: &Entry<'_>) {
        let Folds { recorder, shown, phases, drains } = self;
        recorder.entry(at, entry);
        shown.entry(at, entry);
        phases.entry(at, entry);
        drains.entry(at, entry);
    }
}

pub(crate) struct Task {
    host: Host<Serving, Folds>,
    moves: Option<mpsc::Receiver<KvEvent>>,
    gpus: Option<Box<GpuWatch>>,
    why_no_gpus: Option<String>,
    leases_expired: u64,
}

impl Task {
    pub(crate) fn new(
        engines: Engines,
        mover: Option<(Box<dyn KvMover>, mpsc::Receiver<KvEvent>)>,
        settings: &RouterSettings,
        clock: Arc<dyn Clock>,
    ) -> Task {
        let (mover, moves) = mover.unzip();
        let facts: Vec<EngineFacts> = engines
            .iter()
            .map(|engine| {
                let info = engine.info();
                EngineFacts {
                    max_model_len: info.max_model_len,
                    max_num_batched_tokens: info.max_num_batched_tokens,
                    max_num_seqs: info.max_num_seqs,
                    kv_tokens: u64::from(info.block_size) * u64::from(info.kv_blocks),
                    kv_transfer: info.kv_transfer && mover.is_some(),
                    prefix_block_tokens: if info.prefix_caching { info.block_size } else { 0 },
                    cost_per_hour: settings.cost_per_hour_of(info.id),
                }
            })
            .collect();
        let serving = Serving { engines, mover, clock, clients: HashMap::new() };
        let host = Host::new(&facts, settings, serving, Folds::default());
        Task { host, moves, gpus: None, why_no_gpus: None, leases_expired: 0 }
    }

    /// Serves until it is told to shut down, or all handles that could tell it are dropped.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut gone: mpsc::UnboundedReceiver<RequestId>,
        mut events: EngineEvents,
        sample_ms: u64,
        tick_ms: u64,
    ) {
        let (mut sample, mut tick) = (every(sample_ms), every(tick_ms));
        let answer = loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Shutdown(answer)) => break Some(answer),
                    Some(command) => self.command(command),
                    None => break None,
                },
                Some(request) = gone.recv() => self.host.feed(Event::Cancelled(request)),
                Some(event) = events.recv() => self.engine_event(event),
                Some(event) = next_move(&mut self.moves) => self.move_event(event),
                Some(round) = next_round(&mut self.gpus) => self.gpu_round(round),
                _ = sample.tick() => self.host.sample(),
                _ = tick.tick() => self.host.feed(Event::Tick),
            }
        };
        // No further command is taken: a caller that waits in the queue learns it from its closed channel.
        commands.close();
        while let Ok(command) = commands.try_recv() {
            if let Command::Submit { replies, .. } = command {
                send(&replies, Reply::End(Err(RequestError::Rejected { reason: RejectReason::ShuttingDown })));
            }
        }
        self.shut_down(&mut events).await;
        if let Some(answer) = answer {
            // The caller no longer waits: fine.
            let _ = answer.send(());
        }
    }

    async fn shut_down(&mut self, events: &mut EngineEvents) {
        self.host.feed(Event::ShutDown);
        let mut ending = JoinSet::new();
        if let Some(gpus) = self.gpus.take() {
            // Its end waits for a reading under way, so neither here nor before the engines.
            ending.spawn_blocking(move || drop(gpus));
        }
        for index in 0..self.host.backend.engines.len() {
            // Told first, so that the mover does not take the end of its connections for a fault.
            if let Some(mover) = &self.host.backend.mover {
                mover.forget(self.host.backend.engines[index].info().id);
            }
            let engines = self.host.backend.engines.clone();
            ending.spawn(async move { engines[index].shutdown().await });
        }
        // Engines may wait for room in their channel before they can end, so it is read to the last.
        loop {
            tokio::select! {
                ended = ending.join_next() => if ended.is_none() { break },
                Some(event) = events.recv() => self.engine_event(event),
                Some(event) = next_move(&mut self.moves) => self.move_event(event),
            }
        }
        if let Some(mover) = self.host.backend.mover.take() {
            mover.shutdown().await;
        }
    }

    fn command(&mut self, command: Command) {
        // Answers to callers that no longer wait are dropped.
        match command {
            Command::Submit { request, facts, replies } => self.submit(request, facts, replies),
            Command::Arrange(arrangement, answer) => {
                let _ = answer.send(self.arrange(&arrangement));
            }
            Command::Record(run, answer) => {
                let draining = self.host.router().engines().iter().filter(|engine| engine.draining);
                let drained = draining.map(|engine| engine.id).collect();
                self.host.folds.shown.start(run.clone());
                self.host.folds.recorder.start(run, drained);
                let _ = answer.send(());
            }
            Command::Recorded(answer) => {
                self.host.folds.shown.end();
                let _ = answer.send(self.host.folds.recorder.end());
            }
            Command::WatchGpus(watch, answer) => {
                self.gpus = Some(watch);
                let _ = answer.send(());
            }
            Command::NoteGpus(why, answer) => {
                self.why_no_gpus = Some(why);
                let _ = answer.send(());
            }
            Command::GpuNotes(answer) => {
                let notes = self.gpus.iter().flat_map(|gpus| gpus.notes());
                let _ = answer.send(self.why_no_gpus.iter().cloned().chain(notes).collect());
            }
            Command::Follow(follower, answer) => {
                self.host.folds.shown.follow(follower);
                let _ = answer.send(());
            }
            Command::Condition(answer) => {
                let _ = answer.send(self.condition());
            }
            Command::Costs(answer) => {
                let _ = answer.send(*self.host.router().costs());
            }
            Command::Drain(engine, answer) => self.drain(engine, answer),
            Command::Undrain(engine, answer) => {
                self.host.feed(Event::Undrain { engine });
                let _ = answer.send(());
            }
            Command::SetCosts(costs, answer) => {
                self.host.set_costs(costs);
                let _ = answer.send(());
            }
            Command::PrefixCacheReset(engine, answer) => {
                self.host.feed(Event::PrefixCacheReset { engine });
                let _ = answer.send(());
            }
            // `run` takes it out before.
            Command::Shutdown(_) => {}
        }
    }

    fn submit(&mut self, request: Request, facts: Facts, replies: mpsc::Sender<Reply>) {
        let id = request.id;
        let left = replies.is_closed();
        self.host.backend.clients.insert(id, replies);
        self.host.arrives(request, facts);
        if left {
            // The client went before its request got here, and so may the word of it.
            self.host.feed(Event::Cancelled(id));
        }
    }

    fn arrange(&mut self, arrangement: &Arrangement) -> anyhow::Result<()> {
        self.host.arrange(arrangement)?;
        for (engine, &tuning) in self.host.backend.engines.iter().zip(&arrangement.tunings) {
            let id = engine.info().id;
            if self.host.router().engines()[id.index()].alive {
                let kept = || format!("arrangement `{}`: {id} keeps its scheduler settings", arrangement.name);
                engine.tune(tuning).with_context(kept)?;
            }
        }
        tracing::info!(arrangement = arrangement.name, policy = arrangement.policy.name(), "arranged");
        Ok(())
    }

    fn drain(&mut self, engine: EngineId, answer: oneshot::Sender<anyhow::Result<()>>) {
        if let Err(refused) = self.host.router().can_drain(engine) {
            // Fails only when the caller no longer waits: fine.
            return drop(answer.send(Err(refused.into())));
        }
        self.host.folds.drains.wait(engine, answer);
        self.host.feed(Event::Drain { engine });
    }

    fn condition(&self) -> Condition {
        let (router, mover) = (self.host.router(), &self.host.backend.mover);
        let unsettled = Unsettled {
            in_flight: router.in_flight(),
            held_blocks: mover.as_ref().map_or(0, |mover| mover.held_blocks()),
            leases_expired: self.leases_expired,
        };
        let engines = |is: fn(&EngineState) -> bool| router.engines().iter().filter(|e| is(e)).map(|e| e.id).collect();
        Condition { unsettled, dead: engines(|engine| !engine.alive), cut: engines(|engine| engine.alive && engine.kv_lost) }
    }

    fn engine_event(&mut self, event: EngineEvent) {
        // A leg's copy ends before its first token: take the mover's word first, so that the timeline is whole when the leg ends.
        while let Some(event) = self.moves.as_mut().and_then(|moves| moves.try_recv().ok()) {
            self.move_event(event);
        }
        match event {
            EngineEvent::Step(step) => self.step(step),
            EngineEvent::Died { engine, why } => {
                tracing::error!(%engine, why, "engine died; its requests are resumed elsewhere");
                if let Some(mover) = &self.host.backend.mover {
                    mover.forget(engine);
                }
                self.host.feed(Event::EngineDied { engine, why: &why });
            }
        }
    }

    fn step(&mut self, LegStep { engine, core_at, outputs, stats }: LegStep) {
        let now = self.host.backend.clock.now();
        let computed = core_at.min(now);
        for output in &outputs {
            if !output.tokens.is_empty() {
                self.host.enter(computed, Entry::Computed(output.leg));
            }
            self.host.feed_at(
                now,
                Event::Output {
                    leg: output.leg,
                    tokens: &output.tokens,
                    cached_tokens: output.cached_tokens,
                    finish: output.finish.as_ref().map(|finish| (&finish.reason, finish.held)),
                },
            );
        }
        if let Some(stats) = stats {
            // The engine's own time: how long the event waited here says nothing about the engine.
            self.host.feed_at(computed, Event::EngineStats { engine, stats });
        }
    }

    fn move_event(&mut self, event: KvEvent) {
        match &event {
            &KvEvent::Fetched { leg, copy, bytes, byte_ranges, ref error, from, to, waited, started, .. } => {
                match error {
                    Some(why) => tracing::warn!(%leg, %from, %to, why, "KV was not copied; the prompt is computed again"),
                    None => {
                        tracing::debug!(%leg, %from, %to, %copy, %bytes, byte_ranges, "KV copied");
                        let copied = Copied { leg, to, waited, started, took: copy, bytes, byte_ranges };
                        self.host.enter(started.plus(copy), Entry::Copied(copied));
                    }
                }
                self.host.feed(Event::KvMoved { leg, copy, bytes, ok: error.is_none() });
            }
            KvEvent::Held { engine, leg } => {
                // The leg may have been given up before its engine got to hold anything.
                if !self.host.router().needs_blocks_of(*leg) {
                    self.host.backend.release(*engine, *leg);
                }
            }
            KvEvent::LeaseExpired { engine, leg } => {
                self.leases_expired += 1;
                tracing::warn!(%engine, %leg, "the held KV was not fetched before its lease ran out");
            }
            KvEvent::Disconnected { engine } => {
                tracing::warn!(%engine, "the engine's KV connector is gone; its KV cannot be moved");
                self.host.feed(Event::KvLost { engine: *engine });
            }
            KvEvent::Ready { engine } => tracing::debug!(%engine, "the engine's KV is mapped"),
            KvEvent::CopyCost { from, to, lines } => {
                tracing::debug!(%from, %to, ?lines, "what a copy costs by the calibration");
                self.host.feed(Event::CopyCost { from: *from, to: *to, lines });
            }
            KvEvent::Released { .. } => {}
        }
    }

    fn gpu_round(&mut self, round: Round) {
        let Some(gpus) = &mut self.gpus else { return };
        gpus.saw(&round);
        let on: Vec<Vec<EngineId>> = round.readings.iter().map(|reading| gpus.engines(&reading.uuid)).collect();
        for (reading, engines) in round.readings.into_iter().zip(on) {
            let signals = gpus::signals(&reading);
            for &engine in &engines {
                self.host.feed_at(round.at, Event::DeviceSignals { engine, signals });
            }
            self.host.enter(round.at, Entry::Gpu(&engines, &reading));
        }
    }
}

fn every(ms: u64) -> tokio::time::Interval {
    let mut interval = interval(Duration::from_millis(ms.max(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The next round of GPU samples; for ever none where no GPU is watched.
async fn next_round(gpus: &mut Option<Box<GpuWatch>>) -> Option<Round> {
    match gpus {
        Some(gpus) => gpus.next().await,
        None => None,
    }
}

/// The mover's next event; for ever none where there is no mover.
async fn next_move(moves: &mut Option<mpsc::Receiver<KvEvent>>) -> Option<KvEvent> {
    match moves {
        Some(moves) => moves.recv().await,
        None => None,
    }
}
