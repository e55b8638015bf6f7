//! Real vLLM engines. One interpreter, embedded or this program's host, drives vLLM's `AsyncLLM` handles on one asyncio loop; each engine computes in an
//! EngineCore process of its own, pinned to its device.
//!
//! ```text
//!  tokio ----- submit, abort ----> Inbox + eventfd ----> pump.py (asyncio) --zmq--> EngineCore 0, 1, ...
//!  tokio <--- EngineEvent::Step --- Lane::step  <------- one call per engine step
//!  watcher thread per engine: its log pipe and its pidfd ---> tracing, EngineEvent::Died
//! ```
//!
//! No Rust thread takes the interpreter lock while requests run: a thread that asks for it under load waits for hundreds of
//! milliseconds.

mod bridge;
mod error;
mod folder;
mod handle;
mod interpreter;
mod lane;
mod log;
mod process;
mod spec;
mod tuning;
mod venv;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use dualpool_types::EngineId;

use super::{Engine, EngineEvent};
use bridge::Command;
use folder::EngineFolder;
use handle::VllmEngine;
use lane::Lane;
use tuning::TuningFile;

pub use error::StartError;
#[cfg(feature = "extension-module")]
pub use interpreter::Host;
pub use spec::{EngineSpec, Pin};

/// Told what an engine is doing while it starts, in a few words.
pub type Progress = Arc<dyn Fn(EngineId, &str) + Send + Sync>;

/// How long a failed engine's last log lines may take to arrive.
const LAST_WORDS_MS_MAX: u64 = 2000;

/// Whether this environment holds a vLLM that dualpool knows and that computes on these devices.
pub fn check(venv: &Path, on_cpu: bool, on_gpu: bool) -> Result<(), StartError> {
    interpreter::inspect(venv)?.supports(on_cpu, on_gpu)
}

/// Starts these engines side by side and waits until all are ready. When one fails, the others are ended again.
///
/// `run_dir` is an existing folder that only this user can enter. Dropping the future ends the engines, too.
pub async fn start(
    venv: &Path,
    run_dir: &Path,
    specs: Vec<EngineSpec>,
    events: mpsc::Sender<EngineEvent>,
    progress: Progress,
) -> Result<Vec<Box<dyn Engine>>, StartError> {
    spec::check_all(&specs)?;
    let on_cpu = specs.iter().any(|spec| matches!(spec.pin, Pin::Cores(_)));
    let on_gpu = specs.iter().any(|spec| matches!(spec.pin, Pin::Gpu { .. }));
    let venv = interpreter::inspect(venv)?;
    venv.supports(on_cpu, on_gpu)?;
    for spec in &specs {
        progress(spec.id, "starting Python");
    }
    // Loading libpython's modules from a cold disk takes seconds.
    let interpreter = {
        let venv = venv.clone();
        tokio::task::spawn_blocking(move || interpreter::get(&venv))
            .await
            .map_err(|e| StartError::Interpreter { why: e.to_string() })??
    };
    let mut starting = tokio::task::JoinSet::new();
    for (place, spec) in specs.into_iter().enumerate() {
        let run_dir = run_dir.to_path_buf();
        let (events, progress) = (events.clone(), progress.clone());
        starting.spawn(async move { (place, start_one(interpreter, &run_dir, spec, events, progress).await) });
    }
    let mut engines: Vec<Option<Box<dyn Engine>>> = Vec::new();
    engines.resize_with(starting.len(), || None);
    let mut failed = None;
    while let Some(started) = starting.join_next().await {
        match started {
            Ok((place, Ok(engine))) => engines[place] = Some(Box::new(engine)),
            Ok((_, Err(error))) => {
                // The first failure is the cause; what the others say after it is noise.
                failed.get_or_insert(error);
                starting.abort_all();
            }
            Err(join) if join.is_cancelled() => {}
            Err(join) => {
                failed.get_or_insert(StartError::Interpreter { why: join.to_string() });
            }
        }
    }
    let engines: Vec<_> = engines.into_iter().flatten().collect();
    match failed {
        None => Ok(engines),
        Some(error) => {
            for engine in &engines {
                engine.shutdown().await;
            }
            Err(error)
        }
    }
}

async fn start_one(
    interpreter: &'static interpreter::Interpreter,
    run_dir: &Path,
    spec: EngineSpec,
    events: mpsc::Sender<EngineEvent>,
    progress: Progress,
) -> Result<VllmEngine, StartError> {
    let engine = spec.id;
    let folder = EngineFolder::create(run_dir, engine)?;
    let tuning = TuningFile::create(folder.path())?;
    let lane = Lane::new(engine, progress).map_err(|source| StartError::process(engine, &spec.pin, &source))?;
    let (reply, started) = oneshot::channel();
    // Made before the start, so that leaving this function in any way ends the process.
    let guard = lane::KillOnDrop::new(&lane);
    lane.progress("importing vLLM");
    interpreter.push(Command::Start {
        lane: lane.clone(),
        spec: spec.to_json(&folder, &tuning, &interpreter.environment).to_string(),
        reply,
    });
    let timeout = Duration::from_secs(spec.settings.start_timeout_s);
    let info = match tokio::time::timeout(timeout, started).await {
        Ok(Ok(Ok(info))) => info,
        Ok(Ok(Err(why))) => {
            drop(guard);
            lane.exited(Duration::from_millis(LAST_WORDS_MS_MAX)).await;
            return Err(StartError::engine(&spec.pin, &why, &lane));
        }
        Ok(Err(_)) => return Err(interpreter.broken()),
        Err(_) => return Err(StartError::Timeout { engine, after_s: timeout.as_secs(), last: lane.log.last() }),
    };
    let engine = VllmEngine::new(interpreter, lane.clone(), folder, tuning, &spec, &info)?;
    if !lane.open(events) {
        return Err(StartError::engine(&spec.pin, lane.ending().unwrap_or("it ended"), &lane));
    }
    lane.progress("ready");
    guard.disarm();
    Ok(engine)
}
