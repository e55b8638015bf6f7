//! The terminal while the view is on: keys, signals, and giving the terminal back as it was, however this ends.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use dualpool_types::{Clock, MonotonicClock};

use super::live::Live;
use super::runs::Runs;
use super::snapshot::Snapshot;
use super::{PERIOD, view};
use crate::cli::failure::INTERRUPTED;

/// A signal is seen after this long at the latest.
const KEY_WAIT: Duration = Duration::from_millis(100);

const KEYS: &str = "q quit   up/down scroll   left/right older/newer run";

/// The terminal in raw mode. Dropping it gives it back; so does ratatui's panic hook, before the message is printed.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> std::io::Result<Screen> {
        ratatui::try_init().map(Screen).inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Signals that would end the program with the terminal in raw mode. Blocked before any thread is started, so that they come here.
fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Stay,
    Scroll(i32),
    Run { older: bool },
    Quit,
    Interrupt,
}

fn step(event: &Event) -> Step {
    let Event::Key(key) = event else { return Step::Stay };
    if key.kind == KeyEventKind::Release {
        return Step::Stay;
    }
    match key.code {
        // In raw mode Ctrl-C is a key.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Step::Interrupt,
        KeyCode::Char('q') | KeyCode::Esc => Step::Quit,
        KeyCode::Up => Step::Scroll(-1),
        KeyCode::Down => Step::Scroll(1),
        KeyCode::Left => Step::Run { older: true },
        KeyCode::Right => Step::Run { older: false },
        _ => Step::Stay,
    }
}

pub(super) fn run(mut runs: Runs) -> anyhow::Result<ExitCode> {
    let signals = signals().context("cannot listen for signals")?;
    let (clock, live) = (MonotonicClock::new(), Live::start(PERIOD));
    let mut screen = Screen::open().context("cannot use this terminal; `dualpool top --once` prints one frame as text")?;
    let mut scroll = 0i32;
    let (mut snapshot, mut looked) = (Snapshot::new(runs.look(clock.now()), &live), clock.now());
    loop {
        screen.0.draw(|frame| {
            let area = frame.area();
            let most = view::lines(&snapshot, area.width).len() as i32 + 1 - i32::from(area.height);
            scroll = scroll.clamp(0, most.max(0));
            view::draw(frame, &snapshot, scroll as u16, Some(KEYS));
        })?;
        if signals.read_signal()?.is_some() {
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let mut stale = clock.now().since(looked) >= PERIOD;
        if event::poll(KEY_WAIT)? {
            match step(&event::read()?) {
                Step::Stay => {}
                Step::Scroll(by) => scroll += by,
                Step::Run { older } => {
                    runs.step(older);
                    stale = true;
                }
                Step::Quit => return Ok(ExitCode::SUCCESS),
                Step::Interrupt => return Ok(ExitCode::from(INTERRUPTED)),
            }
        }
        if stale {
            (snapshot, looked) = (Snapshot::new(runs.look(clock.now()), &live), clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::crossterm::event::KeyEvent;

    #[test]
    fn keys_do_what_the_last_line_says() {
        let press = |code, modifiers| step(&Event::Key(KeyEvent::new(code, modifiers)));
        let none = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::Char('q'), none), Step::Quit);
        assert_eq!(press(KeyCode::Up, none), Step::Scroll(-1));
        assert_eq!(press(KeyCode::Down, none), Step::Scroll(1));
        assert_eq!(press(KeyCode::Left, none), Step::Run { older: true });
        assert_eq!(press(KeyCode::Right, none), Step::Run { older: false });
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Step::Interrupt);
        assert_eq!(press(KeyCode::Char('c'), none), Step::Stay);
        assert_eq!(step(&Event::Resize(10, 10)), Step::Stay);
    }
}
