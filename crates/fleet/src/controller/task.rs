//! The one task that owns the router: whatever happens comes to it in turn, so nothing in it is locked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use dualpool_engine::{EngineEvent, EngineEvents, Fleet};
use dualpool_kv::{KvEvent, KvMover};
use dualpool_machine::nvml::Round;
use dualpool_router::{Action, CostModel, EngineFacts, EngineState, Event, Router, RouterSettings};
use dualpool_types::records::Sample;
use dualpool_types::{Arrangement, Clock, EngineId, LegId, LegStep, RejectReason, Request, RequestError, RequestId, Time};

use super::drains::Drains;
use super::gpus::{self, GpuWatch};
use super::recording::Tape;
use super::timeline::Timeline;
use super::{Recording, Reply, Unsettled};

pub(super) enum Command {
    Submit {
        request: Request,
        index: u32,
        arrived: Time,
        replies: mpsc::Sender<Reply>,
    },
    /// Fails with an `ArrangementError`, or with what kept an engine from taking its settings.
    Arrange(Arrangement, oneshot::Sender<anyhow::Result<()>>),
    Record {
        arm: String,
        repetition: u32,
        origin: Time,
        answer: oneshot::Sender<()>,
    },
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
pub(super) struct Condition {
    pub unsettled: Unsettled,
    pub dead: Vec<EngineId>,
    pub cut: Vec<EngineId>,
}

struct Client {
    replies: mpsc::Sender<Reply>,
    timeline: Timeline,
}

pub(super) struct Task {
    router: Router,
    fleet: Fleet,
    mover: Option<Box<dyn KvMover>>,
    moves: Option<mpsc::Receiver<KvEvent>>,
    clock: Arc<dyn Clock>,
    /// One per request that is not over, so at most `router.max_in_flight` and those that wait for admission.
    clients: HashMap<RequestId, Client>,
    tape: Option<Tape>,
    gpus: Option<Box<GpuWatch>>,
    why_no_gpus: Option<String>,
    /// Where the samples are shown while a recording goes on.
    follower: Option<mpsc::Sender<Vec<Sample>>>,
    leases_expired: u64,
    drains: Drains,
    /// What the router asked for in answer to one event; kept for its memory.
    actions: Vec<Action>,
}

impl Task {
    pub fn new(
        fleet: Fleet,
        mover: Option<(Box<dyn KvMover>, mpsc::Receiver<KvEvent>)>,
        settings: &RouterSettings,
        clock: Arc<dyn Clock>,
    ) -> Task {
        let (mover, moves) = mover.unzip();
        let facts: Vec<EngineFacts> = fleet
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
        let router = Router::new(&facts, settings);
        Task {
            router,
            fleet,
            mover,
            moves,
            clock,
            clients: HashMap::new(),
            tape: None,
            gpus: None,
            why_no_gpus: None,
            follower: None,
            leases_expired: 0,
            drains: Drains::default(),
            actions: Vec::new(),
        }
    }

    /// Serves until it is told to shut down, or nobody is left who could.
    pub async fn run(
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
                Some(request) = gone.recv() => self.feed(Event::Cancelled(request)),
                Some(event) = events.recv() => self.engine_event(event),
                Some(event) = next_move(&mut self.moves) => self.move_event(event),
                Some(round) = next_round(&mut self.gpus) => self.gpu_round(round),
                _ = sample.tick() => self.sample(),
                _ = tick.tick() => self.feed(Event::Tick),
            }
        };
        // No further command is taken: whoever waits in the queue is told by its closed channel.
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
        self.feed(Event::ShutDown);
        let mut ending = JoinSet::new();
        if let Some(gpus) = self.gpus.take() {
            // Its end waits for a reading under way, so neither here nor before the engines.
            ending.spawn_blocking(move || drop(gpus));
        }
        for index in 0..self.fleet.len() {
            // Told first, so that the mover does not take the end of its connections for a fault.
            if let Some(mover) = &self.mover {
                mover.forget(self.fleet[index].info().id);
            }
            let fleet = self.fleet.clone();
            ending.spawn(async move { fleet[index].shutdown().await });
        }
        // Engines may wait for room in their channel before they can end, so it is read to the last.
        loop {
            tokio::select! {
                ended = ending.join_next() => if ended.is_none() { break },
                Some(event) = events.recv() => self.engine_event(event),
                Some(event) = next_move(&mut self.moves) => self.move_event(event),
            }
        }
        if let Some(mover) = self.mover.take() {
            mover.shutdown().await;
        }
    }

    fn command(&mut self, command: Command) {
        // Answers to callers who no longer wait are dropped.
        match command {
            Command::Submit { request, index, arrived, replies } => self.submit(request, index, arrived, replies),
            Command::Arrange(arrangement, answer) => {
                let _ = answer.send(self.arrange(&arrangement));
            }
            Command::Record { arm, repetition, origin, answer } => {
                let mut tape = Tape::new(arm, repetition, origin);
                let draining = self.router.engines().iter().filter(|engine| engine.draining);
                draining.for_each(|engine| tape.drained(engine.id));
                self.tape = Some(tape);
                let _ = answer.send(());
            }
            Command::Recorded(answer) => {
                let _ = answer.send(self.tape.take().map(Tape::end).unwrap_or_default());
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
                self.follower = Some(follower);
                let _ = answer.send(());
            }
            Command::Condition(answer) => {
                let _ = answer.send(self.condition());
            }
            Command::Costs(answer) => {
                let _ = answer.send(*self.router.costs());
            }
            Command::Drain(engine, answer) => self.drain(engine, answer),
            Command::Undrain(engine, answer) => {
                self.feed(Event::Undrain { engine });
                self.drains.ended(engine, "it was told to take requests again");
                let _ = answer.send(());
            }
            Command::SetCosts(costs, answer) => {
                self.router.set_costs(costs);
                let _ = answer.send(());
            }
            Command::PrefixCacheReset(engine, answer) => {
                self.feed(Event::PrefixCacheReset { engine });
                let _ = answer.send(());
            }
            // `run` takes it out before.
            Command::Shutdown(_) => {}
        }
    }

    fn submit(&mut self, request: Request, index: u32, arrived: Time, replies: mpsc::Sender<Reply>) {
        let id = request.id;
        let timeline = Timeline::new(&request, index, arrived);
        let left = replies.is_closed();
        self.clients.insert(id, Client { replies, timeline });
        self.feed(Event::Arrived(request));
        if left {
            // The client went before its request got here, and so may the word of it.
            self.feed(Event::Cancelled(id));
        }
    }

    fn arrange(&mut self, arrangement: &Arrangement) -> anyhow::Result<()> {
        self.router.arrange(arrangement)?;
        for (engine, &tuning) in self.fleet.iter().zip(&arrangement.tunings) {
            let id = engine.info().id;
            if self.router.engines()[id.index()].alive {
                let kept = || format!("arrangement `{}`: {id} keeps its scheduler settings", arrangement.name);
                engine.tune(tuning).with_context(kept)?;
            }
        }
        tracing::info!(arrangement = arrangement.name, policy = arrangement.policy.name(), "arranged");
        Ok(())
    }

    fn drain(&mut self, engine: EngineId, answer: oneshot::Sender<anyhow::Result<()>>) {
        if let Err(refused) = self.router.can_drain(engine) {
            // Nobody waits any more: fine.
            return drop(answer.send(Err(refused.into())));
        }
        self.drains.wait(engine, answer);
        self.feed(Event::Drain { engine });
        if let Some(tape) = &mut self.tape {
            tape.drained(engine);
        }
    }

    fn condition(&self) -> Condition {
        let unsettled = Unsettled {
            in_flight: self.router.in_flight(),
            held_blocks: self.mover.as_ref().map_or(0, |mover| mover.held_blocks()),
            leases_expired: self.leases_expired,
        };
        let engines = |is: fn(&EngineState) -> bool| self.router.engines().iter().filter(|e| is(e)).map(|e| e.id).collect();
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
                if let Some(mover) = &self.mover {
                    mover.forget(engine);
                }
                self.feed(Event::EngineDied { engine, why: &why });
                self.drains.ended(engine, "it died, and its requests went on elsewhere");
            }
        }
    }

    fn step(&mut self, LegStep { engine, core_at, outputs, stats }: LegStep) {
        let now = self.clock.now();
        for output in &outputs {
            if let Some(client) = self.clients.get_mut(&output.leg.request) {
                client.timeline.gave(now, core_at.min(now), output);
            }
            self.feed(Event::Output {
                leg: output.leg,
                tokens: &output.tokens,
                cached_tokens: output.cached_tokens,
                finish: output.finish.as_ref().map(|finish| (&finish.reason, finish.held)),
            });
        }
        if let Some(stats) = stats {
            // The engine's own time: how long the event waited here says nothing about the engine.
            self.feed_at(core_at.min(now), Event::EngineStats { engine, stats });
        }
    }

    fn move_event(&mut self, event: KvEvent) {
        match &event {
            KvEvent::Fetched { leg, copy, bytes, byte_ranges, error, from, to, .. } => {
                match error {
                    Some(why) => tracing::warn!(%leg, %from, %to, why, "KV was not copied; the prompt is computed again"),
                    None => tracing::debug!(%leg, %from, %to, %copy, %bytes, byte_ranges, "KV copied"),
                }
                if let Some(client) = self.clients.get_mut(&leg.request) {
                    client.timeline.moved(*leg, &event);
                }
                if let (Some(tape), None) = (&mut self.tape, error) {
                    tape.moved(*to);
                }
                self.feed(Event::KvMoved { leg: *leg, copy: *copy, bytes: *bytes, ok: error.is_none() });
            }
            KvEvent::Held { engine, leg } => {
                // The leg may have been given up before its engine got to hold anything.
                if !self.router.needs_blocks_of(*leg) {
                    self.release(*engine, *leg);
                }
            }
            KvEvent::LeaseExpired { engine, leg } => {
                self.leases_expired += 1;
                tracing::warn!(%engine, %leg, "nobody fetched the held KV in time");
            }
            KvEvent::Disconnected { engine } => {
                tracing::warn!(%engine, "the engine's KV connector is gone; its KV cannot be moved");
                self.feed(Event::KvLost { engine: *engine });
            }
            KvEvent::Ready { engine } => tracing::debug!(%engine, "the engine's KV is mapped"),
            KvEvent::CopyCost { from, to, lines } => {
                tracing::debug!(%from, %to, ?lines, "what a copy costs by the calibration");
                self.feed(Event::CopyCost { from: *from, to: *to, lines });
            }
            KvEvent::Released { .. } => {}
        }
    }

    /// Tells the router, and does what it asks for.
    fn feed(&mut self, event: Event<'_>) {
        self.feed_at(self.clock.now(), event);
    }

    fn feed_at(&mut self, now: Time, event: Event<'_>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.router.handle(now, event, &mut actions);
        actions.drain(..).for_each(|action| self.act(action));
        self.actions = actions;
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Submit { engine, leg } => {
                tracing::debug!(leg = %leg.id, %engine, prompt = leg.prompt.len(), load = leg.kv_source.is_some(), hold = leg.hold, "leg");
                if let Some(client) = self.clients.get_mut(&leg.id.request) {
                    client.timeline.sent(self.clock.now(), engine, self.router.role(engine), &leg);
                }
                self.fleet[engine.index()].submit(leg);
            }
            Action::Abort { engine, leg } => self.fleet[engine.index()].abort(leg),
            Action::Detach { engine, leg } => {
                if let Some(client) = self.clients.get_mut(&leg.request) {
                    client.timeline.detaching(leg);
                }
                self.fleet[engine.index()].detach(leg);
            }
            Action::Release { engine, leg } => self.release(engine, leg),
            Action::Tune { engine, tuning } => {
                if let Err(error) = self.fleet[engine.index()].tune(tuning) {
                    tracing::warn!(%engine, ?tuning, error = format!("{error:#}"), "the engine keeps its scheduler settings");
                }
            }
            Action::Note(note) => {
                tracing::debug!(?note, "the router decided");
                self.drains.noted(&note);
                let now = self.clock.now();
                if let Some(tape) = &mut self.tape {
                    tape.note(now, *note);
                }
            }
            Action::Emit { request, tokens } => {
                let Some(client) = self.clients.get_mut(&request) else { return };
                let at = self.clock.now();
                client.timeline.emitted(at, &tokens);
                send(&client.replies, Reply::Tokens { at, tokens });
            }
            Action::Finish { request, result } => {
                let Some(Client { replies, timeline }) = self.clients.remove(&request) else { return };
                let ended = self.clock.now();
                if let Err(error) = &result {
                    tracing::debug!(%request, %error, "request failed");
                }
                if let Some(tape) = &mut self.tape {
                    tape.request(request, timeline, ended, &result);
                }
                send(&replies, Reply::End(result));
            }
        }
    }

    fn release(&self, engine: EngineId, leg: LegId) {
        if let Some(mover) = &self.mover {
            mover.release(engine, leg);
        }
    }

    fn sample(&mut self) {
        let Some(tape) = &mut self.tape else { return };
        let now = self.clock.now();
        for engine in self.router.engines() {
            tape.sample(now, engine.id, engine.role, (engine.demand.waiting, engine.demand.running), engine.stats());
        }
        if let Some(follower) = &self.follower {
            // A follower that is behind misses these; one that is gone misses nothing.
            let _ = follower.try_send(tape.fresh());
        }
    }

    fn gpu_round(&mut self, round: Round) {
        let Some(gpus) = &mut self.gpus else { return };
        gpus.saw(&round);
        let on: Vec<Vec<EngineId>> = round.readings.iter().map(|reading| gpus.engines(&reading.uuid)).collect();
        for (reading, engines) in round.readings.into_iter().zip(on) {
            let signals = gpus::signals(&reading);
            for &engine in &engines {
                self.feed_at(round.at, Event::DeviceSignals { engine, signals });
            }
            if let Some(tape) = &mut self.tape {
                tape.gpu(round.at, engines, reading);
            }
        }
    }
}

/// The channel has room for all replies of its request, so this fails only when the client is gone; its drop cancels the request.
fn send(replies: &mpsc::Sender<Reply>, reply: Reply) {
    let _ = replies.try_send(reply);
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
