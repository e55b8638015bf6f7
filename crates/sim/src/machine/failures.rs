//! What breaks for good: an engine's link to the mover, or the engine.

use dualpool_host::Fold;
use dualpool_router::Event;
use dualpool_types::{EngineId, Micros, Request, Time};

use super::Machine;
use super::due::Due;

impl<I: Iterator<Item = (Time, Request)>, F: Fold> Machine<'_, I, F> {
    pub(super) fn link_breaks(&mut self, id: EngineId) {
        let engine = &mut self.host.backend.engines[id.index()];
        if engine.alive && std::mem::replace(&mut engine.linked, false) {
            engine.scheduler.release_all();
            self.host.feed(Event::KvLost { engine: id });
            self.host.backend.kick(id);
        }
    }

    pub(super) fn dies(&mut self, id: EngineId) {
        let fleet = &mut self.host.backend;
        let engine = &mut fleet.engines[id.index()];
        if !std::mem::replace(&mut engine.alive, false) {
            return;
        }
        engine.totals.died = Some(Micros(fleet.now.0));
        let noticed = Micros(fleet.faults.engine_death.noticed_after_ms * 1_000);
        fleet.agenda.schedule(fleet.now.plus(noticed), Due::DeathNoticed(id));
    }
}
