//! This program, to be started once more.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// What starts it: an executable, and what comes before the command line, such as `-m dualpool` where the executable is an interpreter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
}

impl Program {
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        command
    }
}
