//! The control thread: waits on the socket, the connections and the inbox (commands of the fleet, outcomes of the mover),
//! hands what comes to the broker, and carries out what the broker wants. It never blocks but in `poll`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use dualpool_types::{Clock, EngineId, LegId, Micros, Time};

use super::connection::{Connection, ConnectionError};
use super::wire::{Half, MESSAGE_BYTES_MAX, MemoryKind, PROTOCOL, ToBroker, ToEngine};
use crate::KvEvent;
use crate::broker::{Broker, ENGINES_MAX, Effect, nothing_fetched};
use crate::calibration::EngineLinks;
use crate::memory::KvMap;
use crate::mover::{Done, Job, Mover, MoverOptions};
use crate::transport::{Memory, Transport};

/// Connections at one time: two per engine, and some that have not said hello yet.
const CONNECTIONS_MAX: usize = 2 * ENGINES_MAX as usize + 16;
/// How long a connection may take to say hello.
const HELLO_WAIT: Micros = Micros(10_000_000);
/// Commands and outcomes that may wait for the control thread. A sender that finds it full waits; the thread itself never does.
const INBOX_MAX: usize = 4096;
/// Messages of one connection, and new connections, taken before others get their turn.
const TURN_MAX: usize = 64;
/// How long no connection is accepted after one could not be, for want of file descriptors for example.
const ACCEPT_RETRY: Micros = Micros(100_000);
/// How often a full event channel is tried again. Until there is room no message is read, which bounds the backlog.
const FULL_CHANNEL_RETRY: Micros = Micros(2_000);

#[derive(Debug)]
pub(crate) enum Command {
    Release { engine: EngineId, leg: LegId },
    Forget { engine: EngineId },
    Mover(Done),
    Stop,
}

pub(crate) struct Options {
    pub lease: Micros,
    pub verify: bool,
    pub clock: Arc<dyn Clock>,
    pub links: EngineLinks,
}

/// A handle to the thread; dropping it ends the thread and waits for it.
pub(crate) struct ControlThread {
    inbox: Inbox,
    held_blocks: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// The sending end of the inbox.
#[derive(Clone)]
struct Inbox {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
}

impl Inbox {
    fn send(&self, command: Command) {
        // Fails when the thread is gone, and then the command is not needed; the event counter cannot overflow in practice.
        if self.commands.send(command).is_ok() {
            let _ = self.wake.write(1);
        }
    }
}

impl ControlThread {
    pub(crate) fn start(
        socket_path: &std::path::Path,
        transport: Box<dyn Transport>,
        options: Options,
        events: mpsc::Sender<KvEvent>,
    ) -> anyhow::Result<ControlThread> {
        let listener =
            listen_on(socket_path).with_context(|| format!("cannot open the control socket {}", socket_path.display()))?;
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).context("cannot make an eventfd")?);
        let (commands, received) = sync_channel(INBOX_MAX);
        let inbox = Inbox { commands, wake: wake.clone() };
        let outcomes = inbox.clone();
        let Options { lease, verify, clock, links } = options;
        let mover =
            Mover::start(transport, MoverOptions { verify, clock: clock.clone() }, move |done| outcomes.send(Command::Mover(done)))
                .context("cannot start the KV mover thread")?;
        let held_blocks = Arc::new(AtomicU64::new(0));
        let server = Server {
            listener,
            wake,
            inbox: received,
            broker: Broker::new(lease, links),
            mover: Some(mover),
            connections: BTreeMap::new(),
            next_connection: 0,
            accept_after: None,
            unmaps: BTreeSet::new(),
            backlog: VecDeque::new(),
            events,
            held_blocks: held_blocks.clone(),
            clock,
            stopping: false,
        };
        let thread = std::thread::Builder::new().name("kv-control".into()).spawn(move || server.run())?;
        Ok(ControlThread { inbox, held_blocks, thread: Some(thread) })
    }

    pub(crate) fn send(&self, command: Command) {
        self.inbox.send(command);
    }

    pub(crate) fn held_blocks(&self) -> u64 {
        self.held_blocks.load(Ordering::Acquire)
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        self.inbox.send(Command::Stop);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the KV control thread panicked");
        }
    }
}

fn listen_on(path: &std::path::Path) -> anyhow::Result<OwnedFd> {
    // Left over from a dualpool that was killed; a live one's folder would be its own.
    let _ = std::fs::remove_file(path);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::new(128)?)?;
    Ok(listener)
}

/// What is at the other end of a connection.
#[derive(Clone, Copy)]
enum Peer {
    /// Has to say hello by this time.
    Stranger(Time),
    Known(EngineId, Half),
}

struct Server {
    listener: OwnedFd,
    wake: Arc<EventFd>,
    inbox: Receiver<Command>,
    broker: Broker,
    mover: Option<Mover>,
    connections: BTreeMap<u64, (Peer, Connection)>,
    next_connection: u64,
    /// The last attempt to accept a connection failed; when to try again.
    accept_after: Option<Time>,
    /// Memory to be unmapped, for which the mover's queue had no room.
    unmaps: BTreeSet<EngineId>,
    /// Events for which the channel had no room.
    backlog: VecDeque<KvEvent>,
    events: mpsc::Sender<KvEvent>,
    held_blocks: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
    stopping: bool,
}

impl Server {
    fn run(mut self) {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        while !self.stopping {
            let ready = self.wait();
            // Empties the counter; an empty one is no error here.
            let _ = self.wake.read();
            self.take_commands();
            for id in ready {
                self.flush(id);
                self.read(id, &mut buffer);
            }
            let now = self.clock.now();
            if self.backlog.is_empty() && self.accept_after.is_none_or(|after| after <= now) {
                self.accept(now);
            }
            self.retry_unmaps();
            self.broker.tick(now);
            self.drop_silent_strangers(now);
            self.carry_out();
        }
        self.close();
    }

    /// Waits for something to do; returns the connections that have something to read or room to write.
    fn wait(&self) -> Vec<u64> {
        // While events wait for the fleet, no message is read: it would only make more of them.
        let readable = if self.backlog.is_empty() { PollFlags::POLLIN } else { PollFlags::empty() };
        let acceptable = if self.accept_after.is_none() { readable } else { PollFlags::empty() };
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN), PollFd::new(self.listener.as_fd(), acceptable)];
        let mut ids = Vec::new();
        for (id, (peer, connection)) in &self.connections {
            let writable = if connection.is_behind() { PollFlags::POLLOUT } else { PollFlags::empty() };
            // A connection we want nothing of stays out: once closed at the other end it would wake the thread without end.
            if !(readable | writable).is_empty() && !self.is_leaving(*peer) {
                fds.push(PollFd::new(connection.as_fd(), readable | writable));
                ids.push(*id);
            }
        }
        if let Err(error) = poll(&mut fds, self.timeout()) {
            // Interrupted by a signal; the loop comes back.
            tracing::trace!("poll: {error}");
            return Vec::new();
        }
        let ready = ids.iter().zip(fds.iter().skip(2)).filter(|(_, fd)| fd.any().unwrap_or(true));
        ready.map(|(id, _)| *id).collect()
    }

    fn is_leaving(&self, peer: Peer) -> bool {
        matches!(peer, Peer::Known(engine, _) if self.broker.is_closing(engine))
    }

    fn timeout(&self) -> PollTimeout {
        let now = self.clock.now();
        let hellos =
            self.connections.values().filter_map(|(peer, _)| if let Peer::Stranger(until) = peer { Some(*until) } else { None });
        let retry = (!self.backlog.is_empty()).then(|| now.plus(FULL_CHANNEL_RETRY));
        let accept = self.accept_after.filter(|_| self.backlog.is_empty());
        match hellos.chain(self.broker.next_deadline()).chain(retry).chain(accept).min() {
            // Rounded up, or the last fraction of a millisecond would be spent spinning.
            Some(at) => PollTimeout::try_from(at.since(now).0.div_ceil(1000)).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        }
    }

    fn take_commands(&mut self) {
        loop {
            let now = self.clock.now();
            match self.inbox.try_recv() {
                Ok(Command::Release { engine, leg }) => self.broker.release(engine, leg),
                Ok(Command::Forget { engine }) => self.broker.forget(engine, now),
                Ok(Command::Mover(Done::Mapped { engine, result })) => self.broker.mapped(engine, result, now),
                Ok(Command::Mover(Done::Unmapped { engine })) => self.broker.unmapped(engine),
                Ok(Command::Mover(Done::Copied { id, copied })) => self.broker.copied(id, copied),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => self.stopping = true,
                Err(TryRecvError::Empty) => break,
            }
            if self.stopping {
                break;
            }
            self.carry_out();
        }
    }

    fn accept(&mut self, now: Time) {
        use std::os::fd::{AsRawFd, FromRawFd};
        for _ in 0..TURN_MAX {
            let fd = match accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
                Ok(fd) => fd,
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => break,
                Err(error) => {
                    if self.accept_after.is_none() {
                        tracing::error!("control socket: no engine can connect: {error}; trying again every {ACCEPT_RETRY}");
                    }
                    // The listener stays readable: asked at once again, it would keep this thread busy with nothing.
                    self.accept_after = Some(now.plus(ACCEPT_RETRY));
                    return;
                }
            };
            // SAFETY: accept4 made this descriptor; nothing else owns it.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            if self.connections.len() >= CONNECTIONS_MAX {
                tracing::warn!("control socket: a connection was refused, {CONNECTIONS_MAX} are open, the most there may be");
                continue;
            }
            let peer = Peer::Stranger(now.plus(HELLO_WAIT));
            self.connections.insert(self.next_connection, (peer, Connection::new(socket)));
            self.next_connection += 1;
        }
        self.accept_after = None;
    }

    /// Reads and handles a turn's messages of a connection; what is left makes the next `wait` short.
    fn read(&mut self, id: u64, buffer: &mut [u8]) {
        for _ in 0..TURN_MAX {
            if !self.backlog.is_empty() {
                break;
            }
            let Some(peer) = self.connections.get(&id).map(|(peer, _)| *peer).filter(|peer| !self.is_leaving(*peer)) else { break };
            let Some((_, connection)) = self.connections.get_mut(&id) else { break };
            let outcome = match connection.receive(buffer) {
                Ok(None) => break,
                Ok(Some((message, handle))) => self.handle(id, peer, message, handle),
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = outcome {
                self.drop_connection(id, &why);
            }
            self.carry_out();
        }
    }

    fn handle(&mut self, id: u64, peer: Peer, message: ToBroker, handle: Option<OwnedFd>) -> Result<(), String> {
        let now = self.clock.now();
        let text = |violation: crate::broker::Violation| violation.to_string();
        match (peer, message) {
            (Peer::Stranger(_), ToBroker::Hello { protocol, engine, half, pid, vllm }) => {
                self.welcome(id, protocol, engine, half)?;
                tracing::info!("{engine}: the {half} of its connector is connected (pid {pid}, vLLM {vllm})");
                Ok(())
            }
            (Peer::Known(engine, Half::Worker), ToBroker::Register(register)) => {
                let memory = match register.memory.clone() {
                    MemoryKind::Shm { bytes } => {
                        let fd = handle.ok_or("`register` came without a file descriptor")?;
                        Memory::Shm { fd, bytes }
                    }
                    MemoryKind::Cuda { uuid, segments } => {
                        let segments = segments.iter().map(|segment| segment.ipc(uuid)).collect::<Result<_, _>>();
                        Memory::Cuda { segments: segments.map_err(|e| e.to_string())? }
                    }
                };
                let map = KvMap::new(engine, register).map_err(|e| e.to_string())?;
                self.broker.register(map, memory).map_err(text)
            }
            (Peer::Known(engine, Half::Worker), ToBroker::Fetch { leg, source, groups }) => {
                self.broker.fetch(engine, leg.0, source, groups, now).map_err(text)
            }
            (Peer::Known(engine, Half::Worker), ToBroker::Released { leg }) => {
                self.broker.released(engine, leg.0);
                Ok(())
            }
            (Peer::Known(engine, Half::Scheduler), ToBroker::Held { leg, tokens, groups }) => {
                self.broker.held(engine, leg.0, groups, tokens, now).map_err(text)
            }
            (Peer::Known(engine, Half::Scheduler), ToBroker::Skip { leg, source }) => {
                self.broker.skip(engine, leg.0, source, now);
                Ok(())
            }
            (Peer::Stranger(_), _) => Err("its first message was not `hello`".into()),
            (Peer::Known(engine, half), message) => Err(format!("the {half} of {engine} may not send {message:?}")),
        }
    }

    fn welcome(&mut self, id: u64, protocol: u32, engine: EngineId, half: Half) -> Result<(), String> {
        if protocol != PROTOCOL {
            return Err(format!(
                "its connector has protocol {protocol}, this dualpool {PROTOCOL}; use the connector that comes with this dualpool"
            ));
        }
        self.broker.hello(engine, half).map_err(|violation| violation.to_string())?;
        if let Some((peer, _)) = self.connections.get_mut(&id) {
            *peer = Peer::Known(engine, half);
        }
        Ok(())
    }

    /// Ends a connection that broke or broke the rules. A known engine loses both of its connections, once its memory is unmapped.
    fn drop_connection(&mut self, id: u64, why: &str) {
        let Some((peer, connection)) = self.connections.get_mut(&id) else { return };
        // So that the other end can say why; it may be gone.
        let _ = connection.send(&ToEngine::Refused { why: why.to_string() });
        match *peer {
            Peer::Known(engine, half) => {
                tracing::warn!("{engine}: closing its control connections because of its {half}: {why}");
                self.broker.lost(engine, self.clock.now());
            }
            Peer::Stranger(_) => {
                tracing::warn!("control socket: closing a connection: {why}");
                self.connections.remove(&id);
            }
        }
    }

    fn drop_silent_strangers(&mut self, now: Time) {
        let silent = |peer: &Peer| matches!(peer, Peer::Stranger(until) if *until <= now);
        let ids: Vec<u64> = self.connections.iter().filter(|(_, (peer, _))| silent(peer)).map(|(id, _)| *id).collect();
        for id in ids {
            self.drop_connection(id, &format!("it said no hello within {HELLO_WAIT}"));
        }
    }

    fn flush(&mut self, id: u64) {
        if let Some((_, connection)) = self.connections.get_mut(&id)
            && let Err(error) = connection.flush()
        {
            self.drop_connection(id, &error.to_string());
        }
    }

    /// Does what the broker wants, until it wants nothing more.
    fn carry_out(&mut self) {
        loop {
            // Before the events are sent: their receiver must not count blocks that it hears are gone.
            self.held_blocks.store(self.broker.held_blocks(), Ordering::Release);
            let effects = self.broker.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out_one(effect);
            }
        }
        self.flush_events();
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Send { engine, half, message } => self.send(engine, half, &message),
            // At once: what follows may let the engine act on it.
            Effect::Emit(event) => {
                self.backlog.push_back(event);
                self.flush_events();
            }
            Effect::Close { engine } => {
                self.connections.retain(|_, (peer, _)| !matches!(peer, Peer::Known(id, _) if *id == engine));
            }
            Effect::Map { engine, memory } => {
                if self.queue(Job::Map { engine, memory }).is_err() {
                    let full = Err("the KV mover's queue is full".into());
                    self.broker.mapped(engine, full, self.clock.now());
                }
            }
            Effect::Unmap { engine } => {
                self.unmaps.insert(engine);
                self.retry_unmaps();
            }
            Effect::Copy(job) => {
                let id = job.id;
                if self.queue(Job::Copy(job)).is_err() {
                    let result = Err("the KV mover's queue is full".to_string());
                    self.broker.copied(id, nothing_fetched(self.clock.now(), result));
                }
            }
        }
    }

    fn retry_unmaps(&mut self) {
        while let Some(engine) = self.unmaps.first().copied()
            && self.queue(Job::Unmap { engine }).is_ok()
        {
            self.unmaps.remove(&engine);
        }
    }

    fn queue(&self, job: Job) -> Result<(), Job> {
        match &self.mover {
            Some(mover) => mover.queue(job),
            None => Err(job),
        }
    }

    fn send(&mut self, engine: EngineId, half: Half, message: &ToEngine) {
        let known = |peer: &Peer| matches!(peer, Peer::Known(id, h) if *id == engine && *h == half);
        let Some((id, (_, connection))) = self.connections.iter_mut().find(|(_, (peer, _))| known(peer)) else { return };
        let id = *id;
        match connection.send(message) {
            Ok(()) => {}
            // Reading will find it closed, after whatever the engine still said.
            Err(ConnectionError::Closed) => {}
            Err(error) => self.drop_connection(id, &error.to_string()),
        }
    }

    fn flush_events(&mut self) {
        while let Some(event) = self.backlog.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.backlog.push_front(event);
                    break;
                }
                // The receiver is gone.
                Err(TrySendError::Closed(_)) => self.backlog.clear(),
            }
        }
    }

    /// Ends in the order engines rely on: first the copies, then the connections.
    fn close(mut self) {
        self.broker.stop_copies();
        // No sender waits for room in the inbox any more, least of all the mover.
        drop(self.inbox);
        if let Some(mover) = self.mover.take() {
            mover.join();
        }
        self.connections.clear();
    }
}
