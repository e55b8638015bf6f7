//! Log lines on standard error, above the progress bars.

use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use dualpool_fleet::log_filter;

use super::terminal::Terminal;

/// The filter that this many `-v` stand for.
pub(super) fn filter(verbose: u8) -> Option<&'static str> {
    match verbose {
        0 => None,
        1 => Some("info"),
        2 => Some("info,dualpool=debug"),
        _ => Some("debug,dualpool=trace"),
    }
}

/// Starts logging; once per process. `filter` is `telemetry.log`, which was checked when the settings were loaded.
pub(super) fn init(filter: &str, terminal: &Terminal) {
    let terminal = terminal.clone();
    let lines = fmt::layer().with_ansi(terminal.interactive).with_writer(move || terminal.clone());
    tracing_subscriber::registry().with(lines.with_filter(log_filter(filter).unwrap_or_default())).init();
}
