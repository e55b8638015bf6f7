//! KV that is held for a leg on another engine: its lease, its copy, its release.

use dualpool_router::Event;
use dualpool_types::{Bytes, EngineId, LegId, Micros, Request, Time};

use super::Machine;
use super::due::{CopyUnderWay, Due};
use crate::Observer;

impl<I: Iterator<Item = (Time, Request)>, O: Observer> Machine<'_, I, O> {
    /// The engine holds blocks for a leg that ended.
    pub(super) fn held(&mut self, engine: EngineId, leg: LegId) {
        if !self.engines[engine.index()].linked {
            return self.release(engine, leg); // Nobody could come for them.
        }
        let lease = Micros(self.simulation.faults.lease_ms * 1_000);
        self.agenda.schedule(self.now.plus(lease), Due::LeaseEnds(engine, leg));
        if let Some(late) = self.mishaps.mover_says() {
            self.agenda.schedule(self.now.plus(late), Due::Held(engine, leg));
        }
    }

    pub(super) fn lease_ends(&mut self, engine: EngineId, leg: LegId) {
        let row = &mut self.engines[engine.index()];
        if !row.alive || row.scheduler.held(leg).is_none() {
            return;
        }
        if self.copies.contains(&(engine, leg)) {
            // They are being read; the copy's end gives them back, or the lease's next one.
            let lease = Micros((self.simulation.faults.lease_ms * 1_000).max(1));
            return self.agenda.schedule(self.now.plus(lease), Due::LeaseEnds(engine, leg));
        }
        row.scheduler.release(leg);
        self.totals.leases_expired += 1;
        self.kick(engine);
    }

    pub(super) fn copy_ends(&mut self, copy: &CopyUnderWay) {
        let CopyUnderWay { leg, source, to, started } = *copy;
        if let Some(at) = self.copies.iter().position(|&from| from == (source.engine, source.leg)) {
            self.copies.swap_remove(at);
        }
        let from = &self.engines[source.engine.index()];
        let held = from.scheduler.held(source.leg).filter(|_| from.alive && from.linked);
        let fails = self.mishaps.copy_fails() || !self.engines[to.index()].linked;
        let kv = held.filter(|_| !fails);
        if !self.engines[to.index()].alive {
            return; // Nobody waits for it any more; who held the blocks hears from the router.
        }
        if kv.is_some() {
            self.engines[source.engine.index()].scheduler.release(source.leg);
            self.engines[to.index()].totals.moves_in += 1;
        }
        self.engines[to.index()].scheduler.fetched(leg, kv);
        let bytes = match kv {
            Some(_) => Bytes(self.engines[to.index()].settings.kv_bytes_per_token * u64::from(source.tokens)),
            None => Bytes(0),
        };
        let took = self.now.since(started);
        if let Some(client) = self.clients.get_mut(&leg.request).filter(|_| kv.is_some()) {
            client.moved(leg, started, took, bytes);
        }
        match self.mishaps.mover_says() {
            Some(Micros::ZERO) => self.feed(Event::KvMoved { leg, copy: took, bytes, ok: kv.is_some() }),
            Some(late) => {
                self.agenda.schedule(self.now.plus(late), Due::Moved { leg, copy: took, bytes, ok: kv.is_some() });
            }
            None => {}
        }
        self.kick(source.engine);
        self.kick(to);
    }

    pub(super) fn release(&mut self, engine: EngineId, leg: LegId) {
        if self.engines[engine.index()].alive && self.engines[engine.index()].scheduler.release(leg) {
            self.kick(engine);
        }
    }
}
