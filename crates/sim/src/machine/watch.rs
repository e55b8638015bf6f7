//! What happens at fixed times while requests are in flight: the router's tick, and a look at the engines.

use dualpool_host::Fold;
use dualpool_router::Event;
use dualpool_types::{Micros, Request, Time};

use super::Machine;
use super::due::Due;

impl<I: Iterator<Item = (Time, Request)>, F: Fold> Machine<'_, I, F> {
    pub(super) fn keep_ticking(&mut self) {
        if !std::mem::replace(&mut self.ticking, true) {
            self.schedule_on_grid(Micros(self.simulation.router.tick_ms * 1_000), Due::Tick);
        }
    }

    pub(super) fn keep_sampling(&mut self) {
        if let Some(every) = self.sample_every
            && !std::mem::replace(&mut self.sampling, true)
        {
            self.schedule_on_grid(every, Due::Sample);
        }
    }

    /// At the next multiple of `every`, as a shell would that looks at its clock.
    fn schedule_on_grid(&mut self, every: Micros, due: Due) {
        let (every, fleet) = (every.0.max(1), &mut self.host.backend);
        fleet.agenda.schedule(Time((fleet.now.0 / every + 1) * every), due);
    }

    pub(super) fn tick(&mut self) {
        self.ticking = false;
        let quiet = self.host.backend.agenda.len() == usize::from(self.sampling) && self.requests.peek().is_none();
        self.host.backend.asked = false;
        self.host.feed(Event::Tick);
        self.idle_ticks = if quiet && !self.host.backend.asked { self.idle_ticks + 1 } else { 0 };
        if !self.host.backend.in_flight.is_empty() || self.host.router().in_flight() > 0 {
            self.keep_ticking();
        }
    }

    pub(super) fn sample(&mut self) {
        self.sampling = false;
        self.host.sample();
        if !self.host.backend.in_flight.is_empty() {
            self.keep_sampling();
        }
    }
}
