//! The one interpreter of this process, with the loop that drives the engines on a thread of its own that never ends.
//!
//! Where the interpreter comes from is `home`: this program starts it (`embedded`), or it started this program (`hosted`).

#[cfg(not(feature = "extension-module"))]
mod embedded;
#[cfg(feature = "extension-module")]
mod hosted;

use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};

use pyo3::prelude::*;
use serde_json::{Value, json};

use super::bridge::{Command, Inbox};
use super::error::StartError;
use super::venv::Venv;
#[cfg(not(feature = "extension-module"))]
use embedded as home;
#[cfg(feature = "extension-module")]
use hosted as home;
#[cfg(feature = "extension-module")]
pub use hosted::Host;

pub(super) use home::inspect;

pub(super) struct Interpreter {
    inbox: Py<Inbox>,
    venv: PathBuf,
    /// What engine processes get on top of this process's environment; null removes a variable.
    pub environment: Value,
}

impl Interpreter {
    pub(super) fn push(&self, command: Command) {
        self.inbox.get().push(command);
    }

    pub(super) fn broken(&self) -> StartError {
        StartError::Interpreter { why: self.inbox.get().broken() }
    }
}

/// Starts the interpreter, or finds it running. Blocks while it starts.
pub(super) fn get(venv: &Venv) -> Result<&'static Interpreter, StartError> {
    static INTERPRETER: OnceLock<Result<Interpreter, StartError>> = OnceLock::new();
    let interpreter = INTERPRETER.get_or_init(|| start(venv)).as_ref().map_err(StartError::clone)?;
    if interpreter.venv != venv.root {
        return Err(StartError::OtherVenv { running: interpreter.venv.clone(), wanted: venv.root.clone() });
    }
    Ok(interpreter)
}

fn start(venv: &Venv) -> Result<Interpreter, StartError> {
    let files = home::python_files()?;
    let cache = bytecode_folder(venv);
    let environment = engine_environment(files.as_deref(), cache.as_deref());
    let broken = |why: String| StartError::Interpreter { why };
    let (started, inbox) = mpsc::channel();
    let home = venv.clone();
    let run = move || {
        let opened =
            home::initialize(&home.python).and_then(|()| Python::attach(|py| open(py, &home.root, files.as_deref(), cache)));
        match opened {
            Err(error) => drop(started.send(Err(error))),
            Ok((pump, inbox)) => {
                let shared = Python::attach(|py| inbox.clone_ref(py));
                let _ = started.send(Ok(shared));
                let ended = Python::attach(|py| pump.call_method1(py, "serve", (&inbox,)).map_err(|error| error.to_string()));
                let why = ended.err().unwrap_or_else(|| "its loop ended".to_owned());
                tracing::error!("the interpreter's loop stopped: {why}");
                inbox.get().give_up(why);
            }
        }
    };
    // The thread of an embedded interpreter becomes Python's main thread.
    std::thread::Builder::new().name("python".into()).spawn(run).map_err(|error| broken(error.to_string()))?;
    let inbox = inbox.recv().map_err(|_| broken("its thread panicked".into()))??;
    Ok(Interpreter { inbox, venv: venv.root.clone(), environment })
}

/// Imports the pump, after a check that this is the interpreter that was asked for.
fn open(
    py: Python<'_>,
    root: &Path,
    files: Option<&Path>,
    bytecode: Option<PathBuf>,
) -> Result<(Py<PyModule>, Py<Inbox>), StartError> {
    let failed = |error: PyErr| StartError::Interpreter { why: error.to_string() };
    let sys = py.import("sys").map_err(failed)?;
    let prefix: PathBuf = sys.getattr("prefix").and_then(|prefix| prefix.extract()).map_err(failed)?;
    if prefix.canonicalize().ok() != root.canonicalize().ok() {
        return Err(StartError::WrongPrefix { expected: root.to_path_buf(), found: prefix.display().to_string() });
    }
    let open = || {
        if let Some(folder) = bytecode {
            sys.setattr("pycache_prefix", folder.as_os_str())?;
            sys.setattr("dont_write_bytecode", false)?;
        }
        if let Some(files) = files {
            sys.getattr("path")?.call_method1("insert", (0, files.as_os_str()))?;
        }
        let inbox = Py::new(py, Inbox::new().map_err(std::io::Error::from)?)?;
        Ok((py.import("dualpool.pump")?.unbind(), inbox))
    };
    open().map_err(failed)
}

/// Where byte code goes when there is none beside the sources and the user forbids to write it there: without any, importing vLLM takes
/// twice as long.
fn bytecode_folder(venv: &Venv) -> Option<PathBuf> {
    std::env::var_os("PYTHONDONTWRITEBYTECODE").filter(|value| !value.is_empty())?;
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // With a folder named, Python does not look beside the sources.
    set("PYTHONPYCACHEPREFIX").or_else(|| {
        if venv.compiled {
            return None;
        }
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("dualpool/pycache"))
    })
}

/// `files` is where engine processes find the package `dualpool`; none when they find it by themselves.
fn engine_environment(files: Option<&Path>, cache: Option<&Path>) -> Value {
    let mut environment = json!({ "PYTHONUNBUFFERED": "1" });
    if let Some(files) = files {
        let mut path = files.as_os_str().to_owned();
        if let Some(users) = std::env::var_os("PYTHONPATH").filter(|value| !value.is_empty()) {
            path.push(":");
            path.push(users);
        }
        environment["PYTHONPATH"] = json!(path.to_string_lossy());
    }
    if let Some(cache) = cache {
        environment["PYTHONDONTWRITEBYTECODE"] = Value::Null;
        environment["PYTHONPYCACHEPREFIX"] = json!(cache);
    }
    environment
}
