//! What the pump sees of Rust: an inbox of commands, an engine's port, and replies.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, OnceLock};

use nix::sys::eventfd::{EfdFlags, EventFd};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use tokio::sync::oneshot;

use dualpool_types::{EngineStats, FinishReason, HeldKv, Leg, LegFinish, LegId, LegOutput, LegStep, Sampling, Time, TokenId};

use super::lane::Lane;

/// The answer to a command: JSON, or an error in Python's words.
pub(super) type Answer = Result<String, String>;

pub(super) enum Command {
    Start {
        lane: Arc<Lane>,
        spec: String,
        reply: oneshot::Sender<Answer>,
    },
    Submit {
        key: u64,
        leg: Leg,
        kv_transfer: bool,
    },
    Abort {
        key: u64,
        leg: LegId,
    },
    Detach {
        key: u64,
        leg: LegId,
    },
    /// `method` is one of the pump's, without its underscore.
    Call {
        key: u64,
        method: &'static str,
        argument: String,
        reply: oneshot::Sender<Answer>,
    },
}

/// Commands on their way to the pump. Bounded by what the router admits: a request in flight has at most a submit, a detach and an abort
/// here.
#[pyclass(frozen)]
pub(super) struct Inbox {
    commands: Mutex<Vec<Command>>,
    wake: EventFd,
    broken: OnceLock<String>,
}

impl Inbox {
    pub(super) fn new() -> nix::Result<Inbox> {
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Inbox { commands: Mutex::default(), wake, broken: OnceLock::new() })
    }

    pub(super) fn push(&self, command: Command) {
        let mut commands = self.commands.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.broken.get().is_some() {
            return; // dropping a command with a reply tells its sender
        }
        commands.push(command);
        // Only the first command wakes; a full counter means that it is awake.
        if commands.len() == 1 {
            let _ = self.wake.write(1);
        }
    }

    /// The pump has ended; commands, those waiting included, are dropped from now on.
    pub(super) fn give_up(&self, why: String) {
        let mut commands = self.commands.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = self.broken.set(why);
        commands.clear();
    }

    pub(super) fn broken(&self) -> String {
        self.broken.get().cloned().unwrap_or_else(|| "the Python loop dropped a command".to_owned())
    }
}

#[pymethods]
impl Inbox {
    /// Readable while commands wait.
    fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// All waiting commands, each as `(method of the pump, *arguments)`.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        // First the counter: a command that comes after it wakes the loop again.
        let _ = self.wake.read();
        let commands = std::mem::take(&mut *self.commands.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let tuples: Vec<Bound<'py, PyTuple>> =
            commands.into_iter().map(|command| command.into_tuple(py)).collect::<PyResult<_>>()?;
        PyList::new(py, tuples)
    }

    /// A line that Python printed and that belongs to no engine.
    fn log(&self, line: &str) {
        if !line.trim().is_empty() {
            tracing::trace!("{line}");
        }
    }
}

impl Command {
    fn into_tuple(self, py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        match self {
            Command::Start { lane, spec, reply } => ("start", Port(lane), spec, Reply::new(reply)).into_pyobject(py),
            Command::Submit { key, leg, kv_transfer } => {
                let kv = if kv_transfer { Some(kv_transfer_params(py, &leg)?) } else { None };
                let (id, prompt, sampling) = (leg.id.to_string(), PyList::new(py, leg.prompt.iter())?, sampling_params(py, &leg)?);
                ("submit", key, id, prompt, sampling, kv).into_pyobject(py)
            }
            Command::Abort { key, leg } => ("abort", key, leg.to_string()).into_pyobject(py),
            Command::Detach { key, leg } => ("detach", key, leg.to_string()).into_pyobject(py),
            Command::Call { key, method, argument, reply } => ("call", key, method, argument, Reply::new(reply)).into_pyobject(py),
        }
    }
}

/// How the engine is to pick the leg's tokens, in the names of vLLM's `SamplingParams`.
fn sampling_params<'py>(py: Python<'py>, leg: &Leg) -> PyResult<Bound<'py, PyDict>> {
    let Sampling { temperature, top_p, top_k, seed, presence_penalty, frequency_penalty, repetition_penalty } = leg.sampling;
    let params = PyDict::new(py);
    params.set_item("max_tokens", leg.max_tokens)?;
    params.set_item("ignore_eos", leg.ignore_eos)?;
    params.set_item("temperature", temperature)?;
    params.set_item("top_p", top_p)?;
    params.set_item("top_k", top_k)?;
    params.set_item("seed", seed)?;
    params.set_item("presence_penalty", presence_penalty)?;
    params.set_item("frequency_penalty", frequency_penalty)?;
    params.set_item("repetition_penalty", repetition_penalty)?;
    Ok(params)
}

/// What the engine's connector is told of a leg.
fn kv_transfer_params<'py>(py: Python<'py>, leg: &Leg) -> PyResult<Bound<'py, PyDict>> {
    let params = PyDict::new(py);
    params.set_item("dualpool_leg", leg.id.to_string())?;
    params.set_item("dualpool_hold", leg.hold)?;
    if let Some(source) = leg.kv_source {
        let source_params = PyDict::new(py);
        source_params.set_item("engine", source.engine.0)?;
        source_params.set_item("leg", source.leg.to_string())?;
        source_params.set_item("tokens", source.tokens)?;
        params.set_item("dualpool_kv_source", source_params)?;
    }
    Ok(params)
}

/// An engine, as the pump sees it.
#[pyclass(frozen)]
struct Port(Arc<Lane>);

/// `(leg, tokens, cached tokens, (reason, held tokens))`
type Output = (String, Vec<TokenId>, Option<u32>, Option<(String, Option<u32>)>);
/// In the order of `StepStats.snapshot`.
type Stats = (u32, u32, f32, u64, u64, u64, u64, u64);

#[pymethods]
impl Port {
    fn key(&self) -> u64 {
        self.0.key
    }

    fn output_fd(&self) -> Option<i32> {
        self.0.output_fd()
    }

    fn spawned(&self, pid: u32) -> PyResult<()> {
        self.0.spawned(pid).map_err(|error| PyOSError::new_err(format!("process {pid} cannot be watched: {error}")))
    }

    /// One step of the engine; `core_at` in seconds of the monotonic clock.
    fn step(&self, py: Python<'_>, core_at: f64, outputs: Vec<Output>, stats: Option<Stats>) -> PyResult<()> {
        let outputs = outputs.into_iter().map(leg_output).collect::<PyResult<_>>()?;
        let core_at = Time((core_at * 1e6) as u64);
        let step = LegStep { engine: self.0.id, core_at, outputs, stats: stats.map(engine_stats) };
        if self.0.has_room() {
            self.0.step(step);
        } else {
            // Others need the interpreter while this one waits.
            py.detach(|| self.0.step(step));
        }
        Ok(())
    }

    fn closing(&self) -> bool {
        self.0.is_closing()
    }

    fn broken(&self, why: &str) {
        self.0.give_up(why);
    }

    fn log(&self, line: &str) {
        self.0.line(line);
    }
}

fn leg_output((leg, tokens, cached_tokens, finish): Output) -> PyResult<LegOutput> {
    let leg = leg.parse().map_err(pyo3::exceptions::PyValueError::new_err)?;
    let finish =
        finish.map(|(reason, held)| LegFinish { reason: finish_reason(&reason), held: held.map(|tokens| HeldKv { tokens }) });
    Ok(LegOutput { leg, tokens, cached_tokens, finish })
}

fn finish_reason(reason: &str) -> FinishReason {
    match reason {
        "length" => FinishReason::Length,
        "stop" => FinishReason::Stop,
        "abort" => FinishReason::Aborted,
        other => FinishReason::Error(other.strip_prefix("error: ").unwrap_or(other).to_owned()),
    }
}

fn engine_stats(stats: Stats) -> EngineStats {
    let (waiting, running, kv_usage, prefix_queries, prefix_hits, prompt_tokens_computed, output_tokens, steps) = stats;
    EngineStats { waiting, running, kv_usage, prefix_queries, prefix_hits, prompt_tokens_computed, output_tokens, steps }
}

/// Takes one answer; dropped without one, its receiver fails.
#[pyclass(frozen)]
struct Reply(Mutex<Option<oneshot::Sender<Answer>>>);

impl Reply {
    fn new(sender: oneshot::Sender<Answer>) -> Reply {
        Reply(Mutex::new(Some(sender)))
    }

    fn send(&self, answer: Answer) {
        if let Some(sender) = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take() {
            let _ = sender.send(answer); // the caller may no longer wait
        }
    }
}

#[pymethods]
impl Reply {
    fn ok(&self, json: String) {
        self.send(Ok(json));
    }

    fn fail(&self, why: String) {
        self.send(Err(why));
    }
}
