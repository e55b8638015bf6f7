//! An interpreter that this program starts.
//!
//! It is configured as the virtual environment's own `python`, not through pyo3's default start, so that `sys.executable`, the
//! prefix and the processes spawned from it are that environment's.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use pyo3::ffi;

use crate::vllm::error::StartError;
use crate::vllm::venv::Venv;

/// The environment at this path, if this program's libpython can run it.
pub(crate) fn inspect(venv: &Path) -> Result<Venv, StartError> {
    let root = std::path::absolute(venv).map_err(|e| StartError::NoPython { python: venv.to_path_buf(), why: e.to_string() })?;
    let python = root.join("bin/python");
    if let Err(error) = std::fs::metadata(&python) {
        return Err(StartError::NoPython { python, why: error.to_string() });
    }
    let linked = linked_python();
    let packages = root.join(format!("lib/python{linked}/site-packages"));
    if !packages.is_dir() {
        return Err(StartError::OtherPython { venv: root, linked });
    }
    Venv::find(root, python, &[packages])
}

/// Version of the libpython this program runs with, as in `3.11`.
fn linked_python() -> String {
    // SAFETY: Py_GetVersion returns a static string and may be called before the interpreter is initialised.
    let version = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) }.to_string_lossy();
    let mut parts = version.split('.');
    format!("{}.{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// Where the package `dualpool` lies: engine processes import it by path.
pub(super) fn python_files() -> Result<Option<PathBuf>, StartError> {
    let folder = std::env::var_os("DUALPOOL_PYTHON_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python"), PathBuf::from);
    match folder.join("dualpool/pump.py").is_file() {
        true => Ok(Some(folder)),
        false => Err(StartError::NoPythonFiles { path: folder }),
    }
}

/// Makes the calling thread Python's main thread, and lets the interpreter lock go.
pub(super) fn initialize(python: &Path) -> Result<(), StartError> {
    let broken = |why: &str| StartError::Interpreter { why: why.to_owned() };
    let python = CString::new(python.as_os_str().as_encoded_bytes()).map_err(|_| broken("a path with a zero byte"))?;
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
        config.install_signal_handlers = 0; // Ctrl-C is dualpool's
        config.parse_argv = 0;
        let config_ptr = &raw mut config;
        let configured = check(ffi::PyConfig_SetBytesString(config_ptr, &raw mut (*config_ptr).program_name, python.as_ptr()))
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
