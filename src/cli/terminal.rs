//! The terminal that progress bars and log lines share.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use comfy_table::Table;
use indicatif::MultiProgress;

/// Where output does not go to a terminal, a report is this wide.
const COLUMNS_WITHOUT_TERMINAL: u16 = 100;

/// Standard error with progress bars on it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Terminal {
    pub bars: MultiProgress,
    /// False when standard error is a file or a pipe: no bars, plain lines.
    pub interactive: bool,
}

impl Terminal {
    pub(super) fn new() -> Terminal {
        Terminal { bars: MultiProgress::new(), interactive: io::stderr().is_terminal() }
    }

    /// Prints a line above the bars.
    pub(super) fn line(&self, text: &str) {
        // Fails when standard error is closed, and then there is no other place to say it.
        let _ = self.clone().write_all(format!("{text}\n").as_bytes());
    }
}

/// Writes between two drawings of the bars, so that neither tears the other.
impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bars.suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Writes to standard output. A reader such as `head` that has seen enough is no failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Width of standard output.
pub(super) fn columns() -> u16 {
    Table::new().width().unwrap_or(COLUMNS_WITHOUT_TERMINAL)
}
