//! What a run is doing: one bar per phase on a terminal, one line per step elsewhere.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use dualpool_fleet::Progress;

use super::terminal::Terminal;

const TICK_MS: u64 = 120;

pub(super) struct Bars {
    terminal: Terminal,
    phase: Mutex<Phase>,
}

#[derive(Default)]
struct Phase {
    name: String,
    steps: u32,
    begun: u32,
    bar: Option<ProgressBar>,
}

impl Bars {
    pub(super) fn new(terminal: &Terminal) -> Bars {
        Bars { terminal: terminal.clone(), phase: Mutex::default() }
    }

    /// A panic elsewhere leaves the phase as valid as it was.
    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the last phase's bar; its line stays.
    pub(super) fn finish(&self) {
        finish(&mut self.lock());
    }
}

impl Progress for Bars {
    fn phase(&self, name: &str, steps: u32) {
        let mut phase = self.lock();
        finish(&mut phase);
        let bar = self.terminal.interactive.then(|| self.terminal.bars.add(new_bar(name, steps)));
        *phase = Phase { name: name.to_string(), steps, begun: 0, bar };
        if !self.terminal.interactive {
            self.terminal.line(name);
        }
    }

    fn step(&self, what: &str) {
        let mut phase = self.lock();
        phase.begun += 1;
        match &phase.bar {
            Some(bar) => {
                bar.set_position(u64::from(phase.begun.saturating_sub(1)));
                bar.set_message(what.to_string());
            }
            None if phase.steps > 0 => {
                self.terminal.line(&format!("{} {}/{}: {what}", phase.name, phase.begun.min(phase.steps), phase.steps));
            }
            None => self.terminal.line(&format!("{}: {what}", phase.name)),
        }
    }

    fn note(&self, text: &str) {
        self.terminal.line(&format!("note: {text}"));
    }

    fn show(&self, text: &str) {
        text.lines().for_each(|line| self.terminal.line(line));
    }
}

fn new_bar(name: &str, steps: u32) -> ProgressBar {
    let bar = if steps > 0 { ProgressBar::new(u64::from(steps)) } else { ProgressBar::new_spinner() };
    // The templates are fixed, and a test parses them.
    let style = ProgressStyle::with_template(template(steps)).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(name.to_string());
    bar.enable_steady_tick(Duration::from_millis(TICK_MS));
    bar
}

fn template(steps: u32) -> &'static str {
    match steps {
        0 => "{prefix:14} {spinner} {elapsed:>4}  {wide_msg}",
        _ => "{prefix:14} [{bar:24}] {pos}/{len} {elapsed:>4}  {wide_msg}",
    }
}

fn finish(phase: &mut Phase) {
    if let Some(bar) = phase.bar.take() {
        bar.set_message("");
        bar.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{MultiProgress, ProgressDrawTarget};

    #[test]
    fn a_step_counts_once_it_is_over_and_a_phase_ends_full() {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let bars = Bars::new(&Terminal { bars, interactive: true });
        bars.phase("measurement", 4);
        bars.step("dual_pool");
        bars.step("auto");
        let bar = bars.lock().bar.clone().unwrap();
        assert_eq!((bar.position(), bar.prefix().as_str(), bar.message().as_str()), (1, "measurement", "auto"));
        bars.phase("summary", 0);
        assert_eq!((bar.position(), bar.is_finished()), (4, true));
        bars.finish();
        assert!(bars.lock().bar.is_none());
    }

    #[test]
    fn templates_are_valid() {
        for steps in [0, 3] {
            ProgressStyle::with_template(template(steps)).unwrap();
        }
    }
}
