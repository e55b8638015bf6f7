//! The one interpreter of this process, on a thread of its own that never ends.
//!
//! It is configured as the virtual environment's own `python`, not through pyo3's default start, so that `sys.executable`, the
//! prefix and the processes spawned from it are that environment's.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};

use pyo3::ffi;
use pyo3::prelude::*;
use serde_json::{Value, json};

use super::bridge::{Command, Inbox};
use super::error::StartError;
use super::venv::Venv;

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
    let files = python_files()?;
    let cache = bytecode_folder();
    let environment = engine_environment(&files, cache.as_deref());
    let broken = |why: String| StartError::Interpreter { why };
    let (started, inbox) = mpsc::channel();
    let (root, python) = (venv.root.clone(), venv.python.clone());
    let run = move || {
        let opened =
            initialize(&python, cache.as_deref()).and_then(|()| Python::attach(|py| open(py, &root, &files, cache.is_some())));
        match opened {
            Err(error) => drop(started.send(Err(error))),
            Ok((pump, inbox)) => {
                let shared = Python::attach(|py| inbox.clone_ref(py));
                let _ = started.send(Ok(shared));
                let ended = Python::attach(|py| pump.call_method1(py, "serve", (&inbox,)).map_err(|error| error.to_string()));
                let why = ended.err().unwrap_or_else(|| "its loop ended".to_owned());
                tracing::error!("the embedded interpreter stopped: {why}");
                inbox.get().give_up(why);
            }
        }
    };
    // The thread becomes Python's main thread, and no thread may end while processes it forked are to live on.
    std::thread::Builder::new().name("python".into()).spawn(run).map_err(|error| broken(error.to_string()))?;
    let inbox = inbox.recv().map_err(|_| broken("its thread panicked".into()))??;
    Ok(Interpreter { inbox, venv: venv.root.clone(), environment })
}

/// Imports the pump, after a check that this is the interpreter that was asked for.
fn open(py: Python<'_>, root: &Path, files: &Path, write_bytecode: bool) -> Result<(Py<PyModule>, Py<Inbox>), StartError> {
    let failed = |error: PyErr| StartError::Interpreter { why: error.to_string() };
    let sys = py.import("sys").map_err(failed)?;
    let prefix: PathBuf = sys.getattr("prefix").and_then(|prefix| prefix.extract()).map_err(failed)?;
    if prefix.canonicalize().ok() != root.canonicalize().ok() {
        return Err(StartError::WrongPrefix { expected: root.to_path_buf(), found: prefix.display().to_string() });
    }
    if write_bytecode {
        sys.setattr("dont_write_bytecode", false).map_err(failed)?;
    }
    let open = || {
        sys.getattr("path")?.call_method1("insert", (0, files.as_os_str()))?;
        let inbox = Py::new(py, Inbox::new().map_err(std::io::Error::from)?)?;
        Ok((py.import("dualpool.pump")?.unbind(), inbox))
    };
    open().map_err(failed)
}

/// Where the package `dualpool` lies: engine processes import it by path.
fn python_files() -> Result<PathBuf, StartError> {
    let folder =
        std::env::var_os("DUALPOOL_PYTHON_DIR").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("python"), PathBuf::from);
    match folder.join("dualpool/pump.py").is_file() {
        true => Ok(folder),
        false => Err(StartError::NoPythonFiles { path: folder }),
    }
}

/// Where byte code goes when the environment forbids it beside the sources: without any, importing vLLM takes twice as long.
fn bytecode_folder() -> Option<PathBuf> {
    std::env::var_os("PYTHONDONTWRITEBYTECODE").filter(|value| !value.is_empty())?;
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("PYTHONPYCACHEPREFIX").or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("dualpool/pycache"))
    })
}

fn engine_environment(files: &Path, cache: Option<&Path>) -> Value {
    let mut path = files.as_os_str().to_owned();
    if let Some(users) = std::env::var_os("PYTHONPATH").filter(|value| !value.is_empty()) {
        path.push(":");
        path.push(users);
    }
    let mut environment = json!({ "PYTHONPATH": path.to_string_lossy(), "PYTHONUNBUFFERED": "1" });
    if let Some(cache) = cache {
        environment["PYTHONDONTWRITEBYTECODE"] = Value::Null;
        environment["PYTHONPYCACHEPREFIX"] = json!(cache);
    }
    environment
}

/// Makes the calling thread Python's main thread, and lets the interpreter lock go.
fn initialize(python: &Path, bytecode: Option<&Path>) -> Result<(), StartError> {
    let broken = |why: &str| StartError::Interpreter { why: why.to_owned() };
    let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| broken("a path with a zero byte"));
    let python = text(python)?;
    let bytecode = bytecode.map(text).transpose()?;
    // SAFETY: called once in this process (`get` sees to it), before any other use of Python. Both structures are plain C data
    // for which all zeroes are valid, filled in by Python's own functions before use; the strings outlive the calls, which
    // copy them; the configuration is cleared once, after its last use. `PyEval_SaveThread` is called by the thread that the
    // successful initialisation left holding the lock.
    unsafe {
        let mut pre: ffi::PyPreConfig = std::mem::zeroed();
        ffi::PyPreConfig_InitPythonConfig(&mut pre);
        pre.utf8_mode = 1;
        check(ffi::Py_PreInitialize(&pre))?;
        let mut config: ffi::PyConfig = std::mem::zeroed();
        ffi::PyConfig_InitPythonConfig(&mut config);
        config.install_signal_handlers = 0; // Ctrl-C is the controller's
        config.parse_argv = 0;
        let config_ptr = &raw mut config;
        let configured = check(ffi::PyConfig_SetBytesString(config_ptr, &raw mut (*config_ptr).program_name, python.as_ptr()))
            .and_then(|()| match &bytecode {
                Some(folder) => {
                    check(ffi::PyConfig_SetBytesString(config_ptr, &raw mut (*config_ptr).pycache_prefix, folder.as_ptr()))
                }
                None => Ok(()),
            })
            .and_then(|()| {
                let argv = [c"dualpool".as_ptr()];
                check(ffi::PyConfig_SetBytesArgv(config_ptr, 1, argv.as_ptr().cast_mut().cast()))
            })
            .and_then(|()| check(ffi::Py_InitializeFromConfig(config_ptr)));
        ffi::PyConfig_Clear(config_ptr);
        configured?;
        ffi::PyEval_SaveThread();
    }
    Ok(())
}

fn check(status: ffi::PyStatus) -> Result<(), StartError> {
    // SAFETY: the status comes from Python, whose messages are static strings or null.
    unsafe {
        if ffi::PyStatus_Exception(status) == 0 {
            return Ok(());
        }
        let why = match status.err_msg.is_null() {
            true => "it gave no reason".into(),
            false => CStr::from_ptr(status.err_msg).to_string_lossy().into_owned(),
        };
        Err(StartError::Interpreter { why })
    }
}
