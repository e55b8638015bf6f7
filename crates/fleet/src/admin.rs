//! Where a program that serves takes orders from commands of the same user: a Unix socket named after its process, in a folder that only
//! this user can enter. One line of JSON each way per connection.

use std::fs::DirBuilder;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use dualpool_types::{Clock, EngineId, Micros, MonotonicClock, Time};

use crate::fleet::Orders;

/// Drains that are waited for at a time; a client that asks for one more is told so.
const DRAINS_MAX: usize = 8;
/// How long a client may take to say all that it wants, or to take its answer. Other clients wait meanwhile.
const TALK_MAX: Duration = Duration::from_secs(1);
const LINE_BYTES_MAX: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Drain(EngineId),
    Undrain(EngineId),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done,
    Failed(String),
}

/// Takes orders until it is dropped.
pub(crate) struct Admin {
    path: PathBuf,
    closing: Arc<AtomicBool>,
}

impl Admin {
    /// In a tokio runtime, on which the orders are carried out.
    pub(crate) fn open(folder: &Path, orders: Orders) -> anyhow::Result<Admin> {
        private(folder)?;
        remove_stale(folder);
        let path = socket(folder);
        // Left behind by a process that had this id before us.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))?;
        let closing = Arc::new(AtomicBool::new(false));
        let (ends, runtime) = (closing.clone(), Handle::current());
        let work = move || accept(&listener, &orders, &runtime, &ends);
        std::thread::Builder::new().name("admin".to_owned()).spawn(work).context("cannot start a thread for orders")?;
        Ok(Admin { path, closing })
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        // Wakes the thread; when that fails, it is gone already.
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Where this process takes its orders.
fn socket(folder: &Path) -> PathBuf {
    folder.join(format!("{}.sock", std::process::id()))
}

/// Removes the sockets of processes that were killed. Where something answers, a process of another PID namespace may have it.
fn remove_stale(folder: &Path) {
    let gone = |path: &Path| {
        let pid = path.file_stem().and_then(|pid| pid.to_str()?.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
            && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    let paths = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    // What cannot be removed is in nothing's way.
    paths.filter(|path| gone(path)).for_each(|path| drop(std::fs::remove_file(path)));
}

/// Where all programs of this user take their orders.
pub fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("dualpool-admin-{}", nix::unistd::geteuid()))
}

/// Makes the folder, or makes sure that it is this user's alone: a user who can enter it can give orders.
fn private(folder: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error)
                .with_context(|| format!("cannot make {}; set TMPDIR to a folder you can write to", folder.display()));
        }
        _ => {}
    }
    let meta = std::fs::symlink_metadata(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mode = meta.permissions().mode() & 0o777;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() || mode & 0o077 != 0 {
        bail!(
            "{} must be a folder of yours with mode 0700, but has owner {} and mode {mode:04o}; remove it",
            folder.display(),
            meta.uid()
        );
    }
    Ok(())
}

/// Listens to one client after the other, and passes orders on in that order. A drain is waited for on a thread of its own; taking requests
/// again ends drains, so it has to get through however many there are.
fn accept(listener: &UnixListener, orders: &Orders, runtime: &Handle, closing: &AtomicBool) {
    let drains = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if closing.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: not to be asked again at once.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        match read(&stream) {
            Err(why) => answer(stream, Err(why)),
            Ok(Order::Undrain(engine)) => answer(stream, runtime.block_on(orders.undrain(engine))),
            Ok(Order::Drain(engine)) => drain(stream, engine, orders, runtime, &drains),
        }
    }
}

fn drain(stream: UnixStream, engine: EngineId, orders: &Orders, runtime: &Handle, drains: &Arc<AtomicUsize>) {
    if drains.load(Ordering::Relaxed) >= DRAINS_MAX {
        return answer(
            stream,
            Err(anyhow!("{DRAINS_MAX} drains are waited for already; try again later, or end some with --undo")),
        );
    }
    // Here and not on the drain's own thread: an order that comes after this one is to find the drain begun.
    let begun = match runtime.block_on(orders.begin_drain(engine)) {
        Ok(begun) => begun,
        Err(why) => return answer(stream, Err(why)),
    };
    // Only this thread adds to it.
    drains.fetch_add(1, Ordering::Relaxed);
    let (runtime, its) = (runtime.clone(), drains.clone());
    let work = move || {
        answer(stream, runtime.block_on(begun.ended()));
        its.fetch_sub(1, Ordering::Relaxed);
    };
    if std::thread::Builder::new().name("drain".to_owned()).spawn(work).is_err() {
        drains.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a client says until a deadline, however slowly it says it.
struct Until<'a> {
    stream: &'a UnixStream,
    deadline: Time,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.since(MonotonicClock::new().now());
        if left == Micros::ZERO {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left.into()))?;
        self.stream.read(buffer)
    }
}

fn read(stream: &UnixStream) -> anyhow::Result<Order> {
    let said = Until { stream, deadline: MonotonicClock::new().now().plus(TALK_MAX.into()) };
    let mut line = String::new();
    BufReader::new(said.take(LINE_BYTES_MAX)).read_line(&mut line).context("no order came")?;
    serde_json::from_str(&line).with_context(|| format!("`{}` is no order", line.trim_end()))
}

/// A client that is gone, or does not read, misses its answer.
fn answer(mut stream: UnixStream, result: anyhow::Result<()>) {
    let answer = result.map_or_else(|why| Answer::Failed(format!("{why:#}")), |()| Answer::Done);
    let _ = stream.set_write_timeout(Some(TALK_MAX));
    if let Ok(line) = serde_json::to_string(&answer) {
        let _ = stream.write_all(format!("{line}\n").as_bytes());
    }
}

/// Has the program behind this socket carry out an order, and waits for it.
pub fn send(mut stream: &UnixStream, order: Order) -> anyhow::Result<()> {
    let line = format!("{}\n", serde_json::to_string(&order)?);
    stream.write_all(line.as_bytes()).context("the program does not take orders any more")?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line).context("the program did not answer")?;
    match serde_json::from_str(&line) {
        Ok(Answer::Done) => Ok(()),
        Ok(Answer::Failed(why)) => bail!(why),
        Err(_) if line.is_empty() => bail!("the program ended before it was done"),
        Err(_) => bail!("the program answered `{}`; is it of another version?", line.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Facts, Fleet, NewRequest, TelemetrySettings};
    use dualpool_engine::virtual_engine::VirtualEngines;
    use dualpool_model::VirtualSettings;
    use dualpool_router::RouterSettings;
    use dualpool_types::{Class, Micros, MonotonicClock, Objectives, Priority, Sampling};

    /// Of two virtual engines.
    fn fleet() -> Fleet {
        let clock = Arc::new(MonotonicClock::new());
        let VirtualEngines { engines, events, mover, moves, .. } =
            VirtualEngines::start(2, &VirtualSettings::default(), clock.clone());
        let (router, telemetry) = (RouterSettings::default(), TelemetrySettings::default());
        Fleet::of(engines, events, Some((Box::new(mover), moves)), &router, &telemetry, clock)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn orders_are_carried_out_and_refusals_come_back_in_words() {
        let fleet = fleet();
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("admin");
        fleet.open_admin(&folder).unwrap();
        let path = socket(&folder);
        let ask = {
            let path = path.clone();
            move |order| send(&UnixStream::connect(&path).unwrap(), order).map_err(|why| why.to_string())
        };
        let talk = move || {
            assert_eq!(ask(Order::Drain(EngineId(1))), Ok(()));
            let refused = ask(Order::Drain(EngineId(0))).unwrap_err();
            assert!(refused.contains("engine-0 is the last engine"), "{refused}");
            assert_eq!(ask(Order::Undrain(EngineId(1))), Ok(()));
            assert_eq!(ask(Order::Drain(EngineId(0))), Ok(()));
            let mut stranger = UnixStream::connect(&path).unwrap();
            stranger.write_all(b"open up\n").unwrap();
            let mut said = String::new();
            stranger.read_to_string(&mut said).unwrap();
            assert!(said.contains("`open up` is no order"), "{said}");
        };
        tokio::task::spawn_blocking(talk).await.unwrap();
        fleet.shutdown().await;
        assert!(!socket(&folder).exists());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn drains_that_last_do_not_keep_a_client_from_ending_them() {
        let fleet = fleet();
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("admin");
        fleet.open_admin(&folder).unwrap();
        let endless = NewRequest {
            prompt: vec![1; 8].into(),
            max_tokens: 4_000,
            ignore_eos: true,
            // Its random numbers are its engine's own, so it cannot move.
            sampling: Sampling { temperature: 1.0, seed: Some(1), ..Sampling::default() },
            class: Class::Short,
            priority: Priority::Normal,
            objectives: Objectives { ttft_us_max: Micros(1_000_000), itl_us_max: Micros(1_000_000) },
            facts: Facts::default(),
        };
        let replies = fleet.submit(endless).await;
        let path = socket(&folder);
        let talk = move || {
            let connect = || UnixStream::connect(&path).unwrap();
            let drain = |mut stream: UnixStream| {
                writeln!(stream, "{}", serde_json::to_string(&Order::Drain(EngineId(0))).unwrap()).unwrap();
                stream
            };
            let waiting: Vec<UnixStream> = (0..DRAINS_MAX).map(|_| drain(connect())).collect();
            let refused = send(&connect(), Order::Drain(EngineId(0))).unwrap_err().to_string();
            assert!(refused.contains("8 drains are waited for already"), "{refused}");
            send(&connect(), Order::Undrain(EngineId(0))).unwrap();
            for mut stream in waiting {
                let mut said = String::new();
                stream.read_to_string(&mut said).unwrap();
                assert!(said.contains("it was told to take requests again"), "{said}");
            }
        };
        tokio::task::spawn_blocking(talk).await.unwrap();
        drop(replies);
        fleet.shutdown().await;
    }

    #[test]
    fn only_sockets_of_killed_processes_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |pid: u32| folder.path().join(format!("{pid}.sock"));
        // Process ids end below these, so no process has them.
        let (killed, elsewhere) = (u32::MAX, u32::MAX - 1);
        let bind = |pid: u32| UnixListener::bind(path(pid)).unwrap();
        let listening = bind(elsewhere);
        // Dropped, they answer no more, and their files stay.
        drop([bind(killed), bind(std::process::id())]);
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        remove_stale(folder.path());
        assert!(!path(killed).exists());
        assert!(path(elsewhere).exists() && path(std::process::id()).exists() && folder.path().join("notes.txt").exists());
        drop(listening);
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(format!("{:#}", private(folder.path()).unwrap_err()).contains("mode 0755"));
    }
}
