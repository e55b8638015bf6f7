//! Times the phases of a run apart, so that set-up never hides in a measurement.

use std::time::Instant;

use dualpool_fleet::Progress;
use dualpool_types::artifact::PhaseTime;

pub(super) struct Phases<'a> {
    progress: &'a dyn Progress,
    /// The part of the run that the phases belong to, where it has several.
    part: Option<&'a str>,
    done: Vec<PhaseTime>,
    current: Option<(String, Instant)>,
}

impl<'a> Phases<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, part: Option<&'a str>) -> Phases<'a> {
        Phases { progress, part, done: Vec::new(), current: None }
    }

    /// Ends the phase before, if any, and begins this one.
    pub(crate) fn begin(&mut self, name: &str, steps: u32) {
        self.end();
        match self.part {
            Some(part) => self.progress.phase(&format!("{part}: {name}"), steps),
            None => self.progress.phase(name, steps),
        }
        self.current = Some((name.to_string(), Instant::now()));
    }

    /// Ends the current phase. The times of all phases so far.
    pub(crate) fn end(&mut self) -> Vec<PhaseTime> {
        if let Some((name, since)) = self.current.take() {
            self.done.push(PhaseTime { name, us: since.elapsed().into() });
        }
        self.done.clone()
    }
}
