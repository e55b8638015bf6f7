//! What this program runs as: an executable of its own, or a module in the interpreter that imported it.

use std::path::{Path, PathBuf};

use dualpool_types::Program;

#[cfg(not(feature = "extension-module"))]
mod own {
    use anyhow::Context;

    use super::*;

    /// The interpreter of the environment with vLLM.
    pub fn python(venv: &Path) -> PathBuf {
        venv.join("bin/python")
    }

    /// None: the settings say which environment it is.
    pub fn environment() -> anyhow::Result<Option<PathBuf>> {
        Ok(None)
    }

    /// This program, to be started once more.
    pub fn again() -> anyhow::Result<Program> {
        let path = std::env::current_exe().context("cannot find this program's own file, to start it once more")?;
        Ok(Program { path, arguments: Vec::new() })
    }
}

#[cfg(feature = "extension-module")]
mod own {
    use super::*;
    use dualpool_engine::vllm::Host;

    pub fn python(venv: &Path) -> PathBuf {
        Host::get().map_or_else(|_| venv.join("bin/python"), |host| host.python.clone())
    }

    /// The environment of the interpreter that runs this program; there can be no other one.
    pub fn environment() -> anyhow::Result<Option<PathBuf>> {
        Ok(Some(Host::get()?.home.clone()))
    }

    pub fn again() -> anyhow::Result<Program> {
        Ok(Program { path: Host::get()?.python.clone(), arguments: ["-m", "dualpool"].map(Into::into).into() })
    }
}

pub use own::{again, environment, python};

/// The command line of this process, for readers of its artifacts. What is not UTF-8 is written with replacement characters.
pub fn command_line() -> Vec<String> {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect()
}
