//! What happens at fixed times while requests are in flight: the router's tick, and samples for the observer.

use dualpool_router::Event;
use dualpool_types::records::EngineSample;
use dualpool_types::{Micros, Request, Time};

use super::Machine;
use super::due::Due;
use crate::Observer;

impl<I: Iterator<Item = (Time, Request)>, O: Observer> Machine<'_, I, O> {
    pub(super) fn keep_ticking(&mut self) {
        if !std::mem::replace(&mut self.ticking, true) {
            self.schedule_on_grid(Micros(self.simulation.router.tick_ms * 1_000), Due::Tick);
        }
    }

    pub(super) fn keep_sampling(&mut self) {
        if let Some(every) = self.observer.sample_every()
            && !std::mem::replace(&mut self.sampling, true)
        {
            self.schedule_on_grid(every, Due::Sample);
        }
    }

    /// At the next multiple of `every`, as a shell would that looks at its clock.
    fn schedule_on_grid(&mut self, every: Micros, due: Due) {
        let every = every.0.max(1);
        self.agenda.schedule(Time((self.now.0 / every + 1) * every), due);
    }

    pub(super) fn tick(&mut self) {
        self.ticking = false;
        let quiet = self.agenda.len() == usize::from(self.sampling) && self.requests.peek().is_none();
        self.asked = false;
        self.feed(Event::Tick);
        self.idle_ticks = if quiet && !self.asked { self.idle_ticks + 1 } else { 0 };
        if !self.clients.is_empty() || self.router.in_flight() > 0 {
            self.keep_ticking();
        }
    }

    pub(super) fn sample(&mut self) {
        self.sampling = false;
        for engine in self.router.engines() {
            let stats = engine.stats();
            self.observer.sample(EngineSample {
                arm: self.simulation.arrangement.name.clone(),
                repetition: 0,
                at_us: Micros(self.now.0),
                engine: engine.id,
                role: engine.role,
                waiting: engine.demand.waiting as u32,
                running: engine.demand.running as u32,
                kv_usage: stats.map(|stats| stats.kv_usage),
                prefix_hits: stats.map(|stats| stats.prefix_hits),
                moves_in: self.engines[engine.id.index()].totals.moves_in,
            });
        }
        if !self.clients.is_empty() {
            self.keep_sampling();
        }
    }
}
