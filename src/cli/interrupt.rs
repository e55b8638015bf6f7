//! Ctrl-C: the first one ends the run in order, the second one at once.

use tokio::signal::unix::{SignalKind, signal};

use super::failure::INTERRUPTED;
use super::terminal::Terminal;
use crate::harness::Cancel;

/// Throws `cancel` on the first Ctrl-C or SIGTERM, and ends the process on the second. Engines end with the process that started
/// them, however it ends.
pub fn watch(cancel: Cancel, terminal: Terminal) -> std::io::Result<()> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
            }
        };
        next().await;
        terminal.line("stopping: engines are being ended and what was finished is kept; once more ends at once");
        cancel.cancel();
        next().await;
        std::process::exit(i32::from(INTERRUPTED));
    });
    Ok(())
}
