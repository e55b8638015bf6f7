//! KV that is held for a leg on another engine: its lease, its copy, its release.

use dualpool_host::{Copied, Entry, Fold};
use dualpool_router::Event;
use dualpool_types::{Bytes, EngineId, LegId, Micros, Request, Time};

use super::Machine;
use super::due::{CopyUnderWay, Due};
use super::fleet::Fleet;

impl Fleet<'_> {
    /// The engine holds blocks for a leg that ended.
    pub(super) fn held(&mut self, engine: EngineId, leg: LegId) {
        if !self.engines[engine.index()].linked {
            return self.release(engine, leg); // No engine could fetch them.
        }
        let lease = Micros(self.faults.lease_ms * 1_000);
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
            let lease = Micros((self.faults.lease_ms * 1_000).max(1));
            return self.agenda.schedule(self.now.plus(lease), Due::LeaseEnds(engine, leg));
        }
        row.scheduler.release(leg);
        self.leases_expired += 1;
        self.kick(engine);
    }

    pub(super) fn release(&mut self, engine: EngineId, leg: LegId) {
        if self.engines[engine.index()].alive && self.engines[engine.index()].scheduler.release(leg) {
            self.kick(engine);
        }
    }

    /// The copy is over, and the leg that waited for it goes on. Returns what it was, and whether it succeeded; none where no leg waits for
    /// it any more: the engine that holds the blocks hears from the router.
    fn copied(&mut self, &CopyUnderWay { leg, source, to, started }: &CopyUnderWay) -> Option<(Copied, bool)> {
        if let Some(at) = self.copies.iter().position(|&from| from == (source.engine, source.leg)) {
            self.copies.swap_remove(at);
        }
        let from = &self.engines[source.engine.index()];
        let held = from.scheduler.held(source.leg).filter(|_| from.alive && from.linked);
        let fails = self.mishaps.copy_fails() || !self.engines[to.index()].linked;
        let kv = held.filter(|_| !fails);
        if !self.engines[to.index()].alive {
            return None;
        }
        if kv.is_some() {
            self.engines[source.engine.index()].scheduler.release(source.leg);
            self.engines[to.index()].totals.moves_in += 1;
        }
        self.engines[to.index()].scheduler.fetched(leg, kv);
        let bytes_per_token = self.engines[to.index()].settings.kv_bytes_per_token;
        let bytes = Bytes(if kv.is_some() { bytes_per_token * u64::from(source.tokens) } else { 0 });
        let copied = Copied { leg, to, waited: Micros::ZERO, started, took: self.now.since(started), bytes, byte_ranges: 1 };
        Some((copied, kv.is_some()))
    }
}

impl<I: Iterator<Item = (Time, Request)>, F: Fold> Machine<'_, I, F> {
    pub(super) fn copy_ends(&mut self, copy: &CopyUnderWay) {
        let Some((copied, ok)) = self.host.backend.copied(copy) else { return };
        let now = self.host.backend.now;
        if ok {
            self.host.enter(now, Entry::Copied(copied));
        }
        let Copied { leg, took: copy_took, bytes, .. } = copied;
        match self.host.backend.mishaps.mover_says() {
            Some(Micros::ZERO) => self.host.feed(Event::KvMoved { leg, copy: copy_took, bytes, ok }),
            Some(late) => self.host.backend.agenda.schedule(now.plus(late), Due::Moved { leg, copy: copy_took, bytes, ok }),
            None => {}
        }
        self.host.backend.kick(copy.source.engine);
        self.host.backend.kick(copy.to);
    }
}
