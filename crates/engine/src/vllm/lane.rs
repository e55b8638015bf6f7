//! Rust's end of one engine: where its steps come in, its log is read, and its process is watched.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use dualpool_types::{EngineId, LegStep};

use super::Progress;
use super::log::{Log, stage};
use super::process::{Ending, Process};
use crate::EngineEvent;

/// Bytes read from an engine's log pipe at a time.
const READ_BYTES: usize = 16 << 10;
/// A log line without an end is cut here.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Names an engine to the pump for the process's whole life, as ids come again with the next fleet.
static NEXT_KEY: AtomicU64 = AtomicU64::new(0);

pub(super) struct Lane {
    pub id: EngineId,
    pub key: u64,
    pub log: Log,
    progress: Progress,
    /// None before `open`, and once the engine has told its end: `Died` is its last event. Held while a step waits for room.
    events: Mutex<Option<mpsc::Sender<EngineEvent>>>,
    runtime: Handle,
    /// We are ending the engine: its end is no event, and its steps go nowhere.
    closing: watch::Sender<bool>,
    output: Mutex<Output>,
    process: OnceLock<Process>,
    /// Why the engine was given up although its process lived.
    broken: OnceLock<String>,
    ending: OnceLock<String>,
    ended: watch::Sender<bool>,
}

/// The engine's stdout and stderr.
struct Output {
    reader: Option<OwnedFd>,
    /// Ours until the process has its copy; the pipe then ends with the process.
    writer: Option<OwnedFd>,
}

impl Lane {
    /// Call it within a tokio runtime.
    pub(super) fn new(id: EngineId, progress: Progress) -> io::Result<Arc<Lane>> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Arc::new(Lane {
            id,
            key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
            log: Log::new(id),
            progress,
            events: Mutex::default(),
            runtime: Handle::current(),
            closing: watch::Sender::new(false),
            output: Mutex::new(Output { reader: Some(reader), writer: Some(writer) }),
            process: OnceLock::new(),
            broken: OnceLock::new(),
            ending: OnceLock::new(),
            ended: watch::Sender::new(false),
        }))
    }

    /// Lets events out from now on; false when the engine has already ended, which is then the caller's to tell.
    pub(super) fn open(&self, sender: mpsc::Sender<EngineEvent>) -> bool {
        // `watch` sets `ending` before it takes this lock, so one of the two sees the other.
        let mut events = lock(&self.events);
        if self.ending.get().is_none() {
            *events = Some(sender);
        }
        events.is_some()
    }

    pub(super) fn progress(&self, stage: &str) {
        (self.progress)(self.id, stage);
    }

    /// A line of the engine's log, from its own process or from vLLM's code in this one.
    pub(super) fn line(&self, line: &str) {
        if let Some(stage) = stage(line) {
            self.progress(stage);
        }
        self.log.line(line);
    }

    /// The descriptor that becomes the process's stdout and stderr.
    pub(super) fn output_fd(&self) -> Option<i32> {
        lock(&self.output).writer.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The engine's process exists from now on.
    pub(super) fn spawned(self: &Arc<Self>, pid: u32) -> io::Result<()> {
        let mut output = lock(&self.output);
        output.writer = None;
        let Some(reader) = output.reader.take() else { return Ok(()) };
        drop(output);
        let process = Process::open(pid)?;
        let process = self.process.get_or_init(|| process);
        // `kill` before this point found no process.
        if self.is_closing() {
            process.kill();
        }
        self.progress("importing vLLM in the engine's process");
        let lane = self.clone();
        std::thread::Builder::new().name(format!("watch-{}", self.id)).spawn(move || lane.watch(reader))?;
        Ok(())
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.get().map(|process| process.pid)
    }

    /// Takes a step in; waits while the channel is full, unless the engine is being ended. Returns at once when the engine has
    /// already told its end.
    pub(super) fn step(&self, step: LegStep) {
        let events = lock(&self.events);
        let Some(sender) = events.as_ref() else { return };
        if let Err(mpsc::error::TrySendError::Full(event)) = sender.try_send(EngineEvent::Step(step)) {
            self.send(sender, event);
        }
    }

    fn send(&self, sender: &mpsc::Sender<EngineEvent>, event: EngineEvent) {
        let mut closing = self.closing.subscribe();
        self.runtime.block_on(async {
            tokio::select! {
                _ = sender.send(event) => {}
                _ = closing.wait_for(|closing| *closing) => {}
            }
        });
    }

    /// Whether `step` would return without waiting.
    pub(super) fn has_room(&self) -> bool {
        // A lock that is taken means that another thread waits for room.
        self.events.try_lock().is_ok_and(|events| events.as_ref().is_none_or(|sender| sender.capacity() > 0))
    }

    /// From now on the engine's end is not an event.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(super) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Ends the process at once, also one that is yet to be spawned.
    pub(super) fn kill(&self) {
        if let Some(process) = self.process.get() {
            process.kill();
        }
    }

    /// The pump cannot go on with this engine.
    pub(super) fn give_up(&self, why: &str) {
        let _ = self.broken.set(why.to_owned());
        self.kill();
    }

    /// Waits until the process has ended and its log is read; false after `timeout`. True when there never was a process.
    pub(super) async fn exited(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.gone()).await.is_ok()
    }

    /// Returns once there is no process, or none any more.
    pub(super) async fn gone(&self) {
        if self.process.get().is_some() {
            // Fails when the sender is gone, which this lane owns.
            let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
        }
    }

    /// The watcher thread: reads the log until the process ends, and tells its end.
    fn watch(&self, reader: OwnedFd) {
        let Some(process) = self.process.get() else { return };
        let mut lines = Lines::default();
        let mut open = true;
        let ending = loop {
            // A closed pipe is always readable: leave it out, or this would spin.
            let mut fds = vec![PollFd::new(process.fd().as_fd(), PollFlags::POLLIN)];
            if open {
                fds.push(PollFd::new(reader.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => {
                    self.give_up(&format!("its process cannot be watched: {error}"));
                    break Ending::Unknown;
                }
            }
            // At once, before `multiprocessing` waits for the process and its status is gone.
            let ending = (fds[0].any() == Some(true)).then(|| process.ending());
            open = open && lines.read(&reader, |line| self.line(line));
            if let Some(ending) = ending {
                break ending;
            }
        };
        lines.rest(|line| self.line(line));
        let mut why = format!("its process {} {ending}", process.pid);
        if let Some(broken) = self.broken.get() {
            why = format!("{broken}, so {why}");
        }
        // A process that was killed had no say in it: what it last complained about is not the cause.
        if let Some(cause) = self.log.cause().filter(|_| !ending.is_kill()) {
            why = format!("{why}; its last error: {cause}");
        }
        let _ = self.ending.set(why.clone());
        let events = lock(&self.events).take();
        if let Some(sender) = events.filter(|_| !self.is_closing()) {
            self.send(&sender, EngineEvent::Died { engine: self.id, why });
        }
        self.ended.send_replace(true);
    }

    /// How the process ended; none while it runs.
    pub(super) fn ending(&self) -> Option<&str> {
        self.ending.get().map(String::as_str)
    }
}

/// Ends the engine when a start is left half done.
pub(super) struct KillOnDrop(Option<Arc<Lane>>);

impl KillOnDrop {
    pub(super) fn new(lane: &Arc<Lane>) -> KillOnDrop {
        KillOnDrop(Some(lane.clone()))
    }

    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(lane) = &self.0 {
            lane.close();
            lane.kill();
        }
    }
}

/// Cuts a byte stream into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Takes what is there; false at the end of the stream.
    fn read(&mut self, from: &OwnedFd, mut each: impl FnMut(&str)) -> bool {
        let mut buffer = [0; READ_BYTES];
        loop {
            match nix::unistd::read(from, &mut buffer) {
                Ok(0) => return false,
                Ok(read) => {
                    self.0.extend_from_slice(&buffer[..read]);
                    while let Some(end) = self.0.iter().position(|&byte| byte == b'\n') {
                        each(&String::from_utf8_lossy(&self.0[..end]));
                        self.0.drain(..=end);
                    }
                    if self.0.len() > LINE_BYTES_MAX {
                        self.rest(&mut each);
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return true,
                Err(_) => return false,
            }
        }
    }

    fn rest(&mut self, mut each: impl FnMut(&str)) {
        if !self.0.is_empty() {
            each(&String::from_utf8_lossy(&std::mem::take(&mut self.0)));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
