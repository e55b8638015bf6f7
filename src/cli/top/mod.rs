//! `dualpool top`: a run while it goes on, and this machine's GPUs.

mod live;
mod runs;
mod screen;
mod snapshot;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use dualpool_types::{Clock, Failure, Micros, MonotonicClock};

use super::terminal::{columns, print};
use live::Live;
use runs::Runs;
use snapshot::Snapshot;

/// How often the GPUs are read, and the screen is drawn anew.
const PERIOD: Micros = Micros(500_000);

/// One frame waits this long for the first reading of the GPUs, which takes two looks at them.
const FIRST_READING_PERIOD: Micros = Micros(100_000);
const FIRST_READING_MAX: Duration = Duration::from_secs(3);

/// A pipe takes lines of any length; in this many columns nothing is cut off.
const COLUMNS_OF_A_PIPE: u16 = 120;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder of a run [default: the newest one under artifacts/, and the next one when it begins].
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Print one frame as text and end; so it does where standard output is no terminal.
    #[arg(long)]
    once: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let runs = Runs::new(args.folder.clone())?;
    let one_frame = args.once || !io::stdout().is_terminal();
    Ok(if one_frame { once(runs) } else { screen::run(runs) }?)
}

fn once(mut runs: Runs) -> anyhow::Result<ExitCode> {
    let live = Live::start(FIRST_READING_PERIOD);
    live.wait_for_reading(FIRST_READING_MAX);
    let snapshot = Snapshot::new(runs.look(MonotonicClock::new().now()), &live);
    let width = if io::stdout().is_terminal() { columns() } else { COLUMNS_OF_A_PIPE };
    print(&text(&snapshot, width)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The whole frame as lines of text, however high it is.
fn text(snapshot: &Snapshot, width: u16) -> anyhow::Result<String> {
    let height = u16::try_from(view::lines(snapshot, width).len()).unwrap_or(u16::MAX);
    // The backend that keeps what is drawn: the same drawing as on a screen, without one.
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    terminal.draw(|frame| view::draw(frame, snapshot, 0, None))?;
    let buffer = terminal.backend().buffer();
    let row = |y| {
        let cells: String = (0..width).filter_map(|x| buffer.cell((x, y))).map(|cell| cell.symbol()).collect();
        format!("{}\n", cells.trim_end())
    };
    Ok((0..height).map(row).collect())
}
