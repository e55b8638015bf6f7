//! What this program runs as: an executable of its own, or a module in the interpreter that imported it.

use std::path::{Path, PathBuf};
use std::process::Command;

#[cfg(not(feature = "extension-module"))]
mod own {
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
    pub fn again() -> anyhow::Result<Command> {
        Ok(Command::new(std::env::current_exe()?))
    }
}

#[cfg(feature = "extension-module")]
mod own {
    use super::*;
    use crate::engine::vllm::Host;

    pub fn python(venv: &Path) -> PathBuf {
        Host::get().map_or_else(|_| venv.join("bin/python"), |host| host.python.clone())
    }

    /// The environment of the interpreter that runs this program; there can be no other one.
    pub fn environment() -> anyhow::Result<Option<PathBuf>> {
        Ok(Some(Host::get()?.home.clone()))
    }

    pub fn again() -> anyhow::Result<Command> {
        let mut command = Command::new(&Host::get()?.python);
        command.args(["-m", "dualpool"]);
        Ok(command)
    }
}

pub use own::{again, environment, python};
