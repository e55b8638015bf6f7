//! What breaks for good: an engine's link to the mover, or the engine.

use dualpool_router::Event;
use dualpool_types::{EngineId, Micros, Request, Time};

use super::Machine;
use super::due::Due;
use crate::Observer;

impl<I: Iterator<Item = (Time, Request)>, O: Observer> Machine<'_, I, O> {
    pub(super) fn link_breaks(&mut self, id: EngineId) {
        let engine = &mut self.engines[id.index()];
        if engine.alive && std::mem::replace(&mut engine.linked, false) {
            engine.scheduler.release_all();
            self.feed(Event::KvLost { engine: id });
            self.kick(id);
        }
    }

    pub(super) fn dies(&mut self, id: EngineId) {
        let engine = &mut self.engines[id.index()];
        if !std::mem::replace(&mut engine.alive, false) {
            return;
        }
        engine.totals.died = Some(Micros(self.now.0));
        let noticed = Micros(self.simulation.faults.engine_death.noticed_after_ms * 1_000);
        self.agenda.schedule(self.now.plus(noticed), Due::DeathNoticed(id));
    }
}
