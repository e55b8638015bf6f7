//! Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed: the first one ends the run in order, the second one at once.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use dualpool_bench::Cancel;

use super::failure::INTERRUPTED;
use super::terminal::Terminal;
use crate::config::UNDER_PROFILER;

/// A profiler gets the user's Ctrl-C as well, and ends what it watches in its own way: its signal comes within this time.
const ECHO_MAX: Duration = Duration::from_secs(2);

/// Throws `cancel` on the first of these, and ends the process on the second, which under a profiler is the next one after
/// `ECHO_MAX`. Engines end with the process that started them, however it ends.
pub(super) fn watch(cancel: Cancel, terminal: Terminal) -> std::io::Result<()> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut hang_ups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
                _ = hang_ups.recv() => {}
            }
        };
        next().await;
        terminal.line("stopping: engines are being ended and what was finished is kept; once more ends at once");
        cancel.cancel();
        if std::env::var_os(UNDER_PROFILER).is_some() {
            // All signals of this time are one; it always runs out.
            let _ = timeout(ECHO_MAX, async {
                loop {
                    next().await
                }
            })
            .await;
        }
        next().await;
        std::process::exit(i32::from(INTERRUPTED));
    });
    Ok(())
}
