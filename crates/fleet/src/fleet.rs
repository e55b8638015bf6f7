//! The handle to engines that serve: what a benchmark, the command line and tests hold.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{mpsc, oneshot};

use dualpool_engine::{EngineEvents, Engines};
use dualpool_host::{Facts, Recording, Run};
use dualpool_kv::{KvEvent, KvMover};
use dualpool_machine::Placement;
use dualpool_router::{CostModel, RouterSettings};
use dualpool_types::records::Sample;
use dualpool_types::{Arrangement, ArrangementError, Clock, EngineId, EngineInfo, RejectReason, RequestError, RequestId, Time};

use crate::TelemetrySettings;
use crate::admin::Admin;
use crate::gpus::GpuWatch;
use crate::request::{NewRequest, Reply, ReplyStream};
use crate::serve::{Command, Condition, Task};

/// Commands that the fleet's task has not taken yet. A client that finds the queue full waits.
const COMMANDS_MAX: usize = 1024;

/// Batches of samples that a follower has not taken yet. What finds the queue full is not shown to it; the recording has it.
const FOLLOWED_MAX: usize = 64;

/// How often a wait for the fleet to fall idle looks again.
const IDLE_POLL: Duration = Duration::from_millis(5);

const GONE: &str = "the fleet has shut down";

/// A drain that has begun. Dropping it does not stop the drain.
pub struct Drain(oneshot::Receiver<anyhow::Result<()>>);

impl Drain {
    /// Waits until the engine is empty, or will not come to be.
    pub async fn ended(self) -> anyhow::Result<()> {
        self.0.await.context(GONE)?
    }
}

/// What is left of the requests so far. All of it is 0 once a fleet without faults has settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Requests that are not over, and aborted legs that their engine has not ended.
    pub in_flight: usize,
    /// KV blocks that engines hold for legs that are over.
    pub held_blocks: u64,
    /// Holds that ended by their lease since the fleet started: blocks that were neither fetched nor released.
    pub leases_expired: u64,
}

impl Unsettled {
    pub fn is_quiet(&self) -> bool {
        *self == Unsettled::default()
    }
}

impl fmt::Display for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unsettled { in_flight, held_blocks, leases_expired } = self;
        write!(f, "{in_flight} requests in flight, {held_blocks} KV blocks held, {leases_expired} holds ended by their lease")
    }
}

/// Engines that serve, and all that belongs to them; cheap to clone. When the last clone is dropped, everything ends as by `shutdown`.
#[derive(Clone)]
pub struct Fleet {
    orders: Orders,
    gone: mpsc::UnboundedSender<RequestId>,
    engines: Engines,
    infos: Arc<[EngineInfo]>,
    placements: Arc<[Placement]>,
    /// Open until the shutdown, where the fleet's spec asked for it.
    admin: Arc<Mutex<Option<Admin>>>,
    clock: Arc<dyn Clock>,
    next_id: Arc<AtomicU64>,
}

impl Fleet {
    /// Serves by these engines; in a tokio runtime. `mover` is none for engines that cannot move KV. The policy is `least_load` until the
    /// fleet is given an arrangement.
    pub fn of(
        engines: Engines,
        events: EngineEvents,
        mover: Option<(Box<dyn KvMover>, mpsc::Receiver<KvEvent>)>,
        router: &RouterSettings,
        telemetry: &TelemetrySettings,
        clock: Arc<dyn Clock>,
    ) -> Fleet {
        let (commands, command_receiver) = mpsc::channel(COMMANDS_MAX);
        let (gone, gone_receiver) = mpsc::unbounded_channel();
        let infos = engines.iter().map(|engine| engine.info().clone()).collect();
        let task = Task::new(engines.clone(), mover, router, clock.clone());
        tokio::spawn(task.run(command_receiver, gone_receiver, events, telemetry.sample_ms, router.tick_ms));
        Fleet {
            orders: Orders(commands),
            gone,
            engines,
            infos,
            placements: Arc::default(),
            admin: Arc::default(),
            clock,
            next_id: Arc::default(),
        }
    }

    /// The same fleet, which knows where its engines are.
    pub(crate) fn on(self, placements: &[Placement]) -> Fleet {
        Fleet { placements: placements.into(), ..self }
    }

    /// Takes orders from other processes of this user, at a socket in this folder, until the shutdown.
    pub(crate) fn open_admin(&self, folder: &Path) -> anyhow::Result<()> {
        *self.admin.lock().unwrap_or_else(PoisonError::into_inner) = Some(Admin::open(folder, self.orders.clone())?);
        Ok(())
    }

    /// The device of each engine, by `EngineId`; empty for a fleet of engines that were started elsewhere.
    pub fn placements(&self) -> &[Placement] {
        &self.placements
    }

    pub fn engines(&self) -> &[EngineInfo] {
        &self.infos
    }

    /// Serves by this arrangement from now on: tunes the engines and swaps the policy. Waits until no request is in flight; requests
    /// that come meanwhile are served by the old one, so a caller that never stops submitting waits for ever. When an engine does not
    /// take its settings this fails, and the fleet is to be arranged anew before it serves.
    pub async fn arrange(&self, arrangement: &Arrangement) -> anyhow::Result<()> {
        loop {
            match self.ask(|answer| Command::Arrange(arrangement.clone(), answer)).await? {
                Err(error) if matches!(error.downcast_ref(), Some(ArrangementError::Busy { .. })) => {
                    tokio::time::sleep(IDLE_POLL).await;
                }
                result => return result,
            }
        }
    }

    pub async fn submit(&self, request: NewRequest) -> ReplyStream {
        let arrived = request.facts.arrived.unwrap_or_else(|| self.clock.now());
        let facts = Facts { arrived: Some(arrived), ..request.facts };
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        // Every message but the end carries at least one token, and the router passes on at most `max_tokens` of them.
        let (sender, replies) = mpsc::channel(request.max_tokens as usize + 1);
        let stream = ReplyStream { id, replies, gone: self.gone.clone(), ended: false };
        let command = Command::Submit { request: request.numbered(id), facts, replies: sender };
        if let Err(mpsc::error::SendError(Command::Submit { replies, .. })) = self.orders.0.send(command).await {
            // The fleet has shut down. The channel is empty, so there is room.
            let _ = replies.try_send(Reply::End(Err(RequestError::Rejected { reason: RejectReason::ShuttingDown })));
        }
        stream
    }

    /// Starts a recording under this name: its times count from `origin`, and what was recorded before is dropped.
    pub async fn record(&self, arm: &str, repetition: u32, origin: Time) {
        // Fails only when the fleet has shut down, and then there is nothing to record.
        let run = Run { arm: arm.to_owned(), repetition, origin };
        let _ = self.ask(|answer| Command::Record(run, answer)).await;
    }

    /// Ends the recording and hands it over.
    pub async fn recorded(&self) -> Recording {
        self.ask(Command::Recorded).await.unwrap_or_default()
    }

    /// Watches these GPUs from now on: their samples go to the recordings and to the router.
    pub async fn watch_gpus(&self, watch: GpuWatch) {
        // Fails only when the fleet has shut down; the watch ends with the command.
        let _ = self.ask(|answer| Command::WatchGpus(Box::new(watch), answer)).await;
    }

    /// Notes why GPUs are not watched.
    pub async fn note_gpus(&self, why: String) {
        // Fails only when the fleet has shut down, and then no run records notes.
        let _ = self.ask(|answer| Command::NoteGpus(why, answer)).await;
    }

    /// What a reader of the figures should know of the GPUs: errors, losses, how long they were slowed down.
    pub async fn gpu_notes(&self) -> Vec<String> {
        self.ask(Command::GpuNotes).await.unwrap_or_default()
    }

    /// The samples of every recording from now on, as they are taken. One follower at a time: the last one.
    pub async fn follow(&self) -> mpsc::Receiver<Vec<Sample>> {
        let (sender, batches) = mpsc::channel(FOLLOWED_MAX);
        // Fails only when the fleet has shut down, and then the channel is closed.
        let _ = self.ask(|answer| Command::Follow(sender, answer)).await;
        batches
    }

    /// Waits until no request is in flight and no block is held, at most `timeout`; returns what is left then. Fails when the
    /// fleet has shut down.
    pub async fn settle(&self, timeout: Duration) -> anyhow::Result<Unsettled> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let left = self.ask(Command::Condition).await?.unsettled;
            if (left.in_flight, left.held_blocks) == (0, 0) || tokio::time::Instant::now() >= deadline {
                return Ok(left);
            }
            tokio::time::sleep(IDLE_POLL).await;
        }
    }

    /// Forgets all cached prefixes on all engines alive.
    pub async fn reset_prefix_caches(&self) -> anyhow::Result<()> {
        let Condition { dead, .. } = self.ask(Command::Condition).await?;
        for engine in self.engines.iter().filter(|engine| !dead.contains(&engine.info().id)) {
            let id = engine.info().id;
            if !engine.reset_prefix_cache().await {
                bail!("{id} kept its prefix cache: blocks of it are in use; settle the fleet first");
            }
            self.ask(|answer| Command::PrefixCacheReset(id, answer)).await?;
        }
        Ok(())
    }

    /// Drains an engine: it gets no new requests, those that decode on it move to others with their KV, and the rest follow with their first
    /// token. What cannot move stays to its end. Returns when the engine is empty; it takes no requests until `undrain`, or until no
    /// other engine is left. Fails with a `DrainError`, or when the engine dies or is told to take requests again. A caller that stops
    /// waiting does not stop the drain.
    pub async fn drain(&self, engine: EngineId) -> anyhow::Result<()> {
        self.begin_drain(engine).await?.ended().await
    }

    /// The same in two steps: once this returns, whatever is asked next comes after the drain's beginning.
    pub async fn begin_drain(&self, engine: EngineId) -> anyhow::Result<Drain> {
        self.orders.begin_drain(engine).await
    }

    /// Has a drained engine take requests again.
    pub async fn undrain(&self, engine: EngineId) -> anyhow::Result<()> {
        self.orders.undrain(engine).await
    }

    /// Engines that are gone; their requests were resumed elsewhere.
    pub async fn dead_engines(&self) -> Vec<EngineId> {
        self.ask(Command::Condition).await.map(|condition| condition.dead).unwrap_or_default()
    }

    /// Engines alive that have lost their link to the mover: they go on serving, and no KV moves from or to them any more.
    pub async fn cut_engines(&self) -> Vec<EngineId> {
        self.ask(Command::Condition).await.map(|condition| condition.cut).unwrap_or_default()
    }

    /// What the router believes things cost, as far as it has learned it.
    pub async fn costs(&self) -> anyhow::Result<CostModel> {
        self.ask(Command::Costs).await
    }

    /// Starts the router's cost model from a calibration.
    pub async fn set_costs(&self, costs: CostModel) -> anyhow::Result<()> {
        self.ask(|answer| Command::SetCosts(costs, answer)).await
    }

    /// Ends every request, every engine and the mover, and waits for them.
    pub async fn shutdown(&self) {
        // Its thread has a sender of commands, too.
        drop(self.admin.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Fails only when that has happened already.
        let _ = self.ask(Command::Shutdown).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> anyhow::Result<T> {
        self.orders.ask(command).await
    }
}

/// What the fleet's task is told.
#[derive(Clone)]
pub(crate) struct Orders(mpsc::Sender<Command>);

impl Orders {
    pub(crate) async fn begin_drain(&self, engine: EngineId) -> anyhow::Result<Drain> {
        self.send(|answer| Command::Drain(engine, answer)).await.map(Drain)
    }

    pub(crate) async fn undrain(&self, engine: EngineId) -> anyhow::Result<()> {
        self.ask(|answer| Command::Undrain(engine, answer)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> anyhow::Result<T> {
        self.send(command).await?.await.context(GONE)
    }

    async fn send<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> anyhow::Result<oneshot::Receiver<T>> {
        let (answer, answered) = oneshot::channel();
        self.0.send(command(answer)).await.ok().context(GONE)?;
        Ok(answered)
    }
}
