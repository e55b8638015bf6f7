//! The interpreter that runs this program: `python -m dualpool`.
//!
//! It is the caller's, so nothing of it is configured here. Its main thread waits in Rust, without the interpreter lock, and the
//! loop that drives the engines has a thread of its own, where asyncio installs no signal handlers.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pyo3::prelude::*;

use crate::vllm::error::StartError;
use crate::vllm::venv::Venv;

/// What the caller's interpreter says of itself.
#[derive(Clone, Debug)]
pub struct Host {
    /// `sys.prefix`: the environment it belongs to.
    pub home: PathBuf,
    /// `sys.executable`.
    pub python: PathBuf,
    /// The folder that holds the package `dualpool`, unless it is one that every interpreter of this environment looks into.
    files: Option<PathBuf>,
    /// `sys.path`.
    packages: Vec<PathBuf>,
}

impl Host {
    /// Takes the interpreter lock the first time: call it before requests run.
    pub fn get() -> Result<&'static Host, StartError> {
        static HOST: OnceLock<Result<Host, StartError>> = OnceLock::new();
        let ask = || Python::attach(Host::ask).map_err(|error| StartError::Interpreter { why: error.to_string() });
        HOST.get_or_init(ask).as_ref().map_err(StartError::clone)
    }

    fn ask(py: Python<'_>) -> PyResult<Host> {
        let (sys, site) = (py.import("sys")?, py.import("site")?);
        let package: PathBuf = py.import("dualpool")?.getattr("__file__")?.extract()?;
        // Two levels above the package's `__init__.py`.
        let files = package.ancestors().nth(2).unwrap_or(Path::new("")).to_path_buf();
        let mut shared: Vec<PathBuf> = site.call_method0("getsitepackages")?.extract()?;
        shared.push(site.call_method0("getusersitepackages")?.extract()?);
        Ok(Host {
            home: sys.getattr("prefix")?.extract()?,
            python: sys.getattr("executable")?.extract()?,
            files: (!shared.contains(&files)).then_some(files),
            packages: sys.getattr("path")?.extract()?,
        })
    }
}

/// The caller's environment; no other one can be had in its process.
pub(crate) fn inspect(venv: &Path) -> Result<Venv, StartError> {
    let host = Host::get()?;
    let same = venv == host.home || venv.canonicalize().ok() == host.home.canonicalize().ok();
    if !same {
        return Err(StartError::OtherVenv { running: host.home.clone(), wanted: venv.to_path_buf() });
    }
    Venv::find(host.home.clone(), host.python.clone(), &host.packages)
}

/// Where the package `dualpool` lies: engine processes import it by path.
pub(super) fn python_files() -> Result<Option<PathBuf>, StartError> {
    Ok(Host::get()?.files.clone())
}

/// Nothing to do: it runs.
pub(super) fn initialize(_: &Path) -> Result<(), StartError> {
    Ok(())
}
