//! The protocol's state, sans-IO: what engines and the fleet say goes in, with the time; what is to be done comes out as
//! effects. The control thread (`control/server.rs`) carries them out.
//!
//! Two promises engines rely on:
//! - Every fetch is answered, unless the engine itself is gone: when the copy is done, when it fails, when the source never shows up.
//! - An engine's connections are closed by us only when its memory is unmapped, which comes after the last copy that reads from or writes
//!   to it. So an engine that finds its connection closed may reuse its blocks, and free the memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use dualpool_types::{Bytes, EngineId, LegId, Micros, Time};

use super::KvEvent;
use super::calibration::EngineLinks;
use super::control::wire::{FetchGroup, Half, LegName, Source, ToEngine};
use super::copy_plan::BlockPair;
use super::cost::Footprint;
use super::lease::{FetchError, Leases, OnHeld, Tables};
use super::memory::KvMap;
use super::mover::{Copied, CopyJob};
use super::transport::{Memory, Stop};

/// Engine ids are below this.
pub(crate) const ENGINES_MAX: u16 = 256;
/// Legs whose blocks may be held at one time, over all engines.
pub(crate) const LEASES_MAX: usize = 65_536;
/// Fetches that may wait for their source or for the mover, over all engines. Further ones fail, and their engines compute.
pub(crate) const FETCHES_MAX: usize = 4096;
/// How long a fetch waits for its source to say that it holds the blocks. It says so before the source leg's last output leaves
/// the engine, so this bounds the delay of one message, not of any work.
pub(crate) const HELD_WAIT: Micros = Micros(2_000_000);

#[derive(Debug)]
pub(crate) enum Effect {
    Send {
        engine: EngineId,
        half: Half,
        message: ToEngine,
    },
    /// To be answered through `mapped`.
    Map {
        engine: EngineId,
        memory: Memory,
    },
    /// To be answered through `unmapped`, after the answer to `Map`.
    Unmap {
        engine: EngineId,
    },
    Copy(CopyJob),
    /// Close the engine's connections: nothing knows its memory any more.
    Close {
        engine: EngineId,
    },
    Emit(KvEvent),
}

/// Something an engine said that the protocol does not allow. Its connections are closed.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum Violation {
    #[error("engine id {} is over the limit of {ENGINES_MAX} engines", .0.0)]
    UnknownEngine(EngineId),
    #[error("the {half} of {engine} is connected already")]
    ConnectedAlready { engine: EngineId, half: Half },
    #[error("the last connection of {engine} is still closing; retry")]
    Closing { engine: EngineId },
    #[error("{engine} registered its memory twice")]
    RegisteredTwice { engine: EngineId },
    #[error("leg {leg} is held already; a leg ends once")]
    HeldTwice { leg: LegId },
    #[error("{LEASES_MAX} legs hold blocks, the most there may be")]
    TooManyLeases,
    #[error("{engine} has registered no memory")]
    NotRegistered { engine: EngineId },
}

#[derive(Debug, Default)]
struct Engine {
    scheduler: bool,
    worker: bool,
    map: Option<Arc<KvMap>>,
    mapped: bool,
    /// Its memory is to be unmapped as soon as no copy touches it, and its connections closed then. Until they are, its id is taken.
    closing: bool,
    /// Copies that read from or write to it.
    copies: usize,
}

impl Engine {
    fn ready(&self) -> bool {
        self.scheduler && self.worker && self.mapped && !self.closing
    }
}

/// A fetch that an engine waits for.
#[derive(Debug)]
struct Fetch {
    engine: EngineId,
    leg: LegId,
    source: Source,
    groups: Vec<FetchGroup>,
}

#[derive(Debug)]
struct Copying {
    fetch: Fetch,
    stop: Arc<Stop>,
}

pub(crate) struct Broker {
    lease: Micros,
    /// What copies between these engines cost, where that was measured.
    links: EngineLinks,
    engines: BTreeMap<EngineId, Engine>,
    leases: Leases,
    /// Fetches whose source has not said yet that it holds the blocks, and until when they wait.
    waiting: Vec<(Time, Fetch)>,
    copying: BTreeMap<u64, Copying>,
    next_copy: u64,
    effects: Vec<Effect>,
}

impl Broker {
    pub(crate) fn new(lease: Micros, links: EngineLinks) -> Broker {
        Broker {
            lease,
            links,
            engines: BTreeMap::new(),
            leases: Leases::default(),
            waiting: Vec::new(),
            copying: BTreeMap::new(),
            next_copy: 0,
            effects: Vec::new(),
        }
    }

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Blocks that engines hold for legs that are over.
    pub(crate) fn held_blocks(&self) -> u64 {
        self.leases.blocks()
    }

    /// When `tick` has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.waiting.iter().map(|(until, _)| *until).chain(self.leases.next_expiry()).min()
    }

    /// Whether this engine is on its way out; nothing it says counts any more.
    pub(crate) fn is_closing(&self, engine: EngineId) -> bool {
        self.engines.get(&engine).is_some_and(|engine| engine.closing)
    }

    // ---- what engines say

    pub(crate) fn hello(&mut self, id: EngineId, half: Half) -> Result<(), Violation> {
        if id.0 >= ENGINES_MAX {
            return Err(Violation::UnknownEngine(id));
        }
        let engine = self.engines.entry(id).or_default();
        if engine.closing {
            return Err(Violation::Closing { engine: id });
        }
        let connected = match half {
            Half::Scheduler => &mut engine.scheduler,
            Half::Worker => &mut engine.worker,
        };
        if std::mem::replace(connected, true) {
            return Err(Violation::ConnectedAlready { engine: id, half });
        }
        self.send(id, half, ToEngine::Welcome {});
        self.emit_ready(id);
        Ok(())
    }

    pub(crate) fn register(&mut self, map: KvMap, memory: Memory) -> Result<(), Violation> {
        let id = map.engine;
        for other in self.engines.values().filter_map(|engine| engine.map.as_deref()) {
            if let Err(mismatch) = map.matches(other) {
                tracing::warn!("{mismatch}");
            }
        }
        let engine = self.engines.entry(id).or_default();
        if engine.map.is_some() {
            return Err(Violation::RegisteredTwice { engine: id });
        }
        engine.map = Some(Arc::new(map));
        self.effects.push(Effect::Map { engine: id, memory });
        Ok(())
    }

    pub(crate) fn held(&mut self, engine: EngineId, leg: LegId, tables: Tables, tokens: u32, now: Time) -> Result<(), Violation> {
        if self.leases.is_known((engine, leg)) {
            return Err(Violation::HeldTwice { leg });
        }
        if self.leases.len() >= LEASES_MAX {
            return Err(Violation::TooManyLeases);
        }
        match self.leases.hold((engine, leg), tables, tokens, now.plus(self.lease)) {
            OnHeld::Keep => self.effects.push(Effect::Emit(KvEvent::Held { engine, leg })),
            OnHeld::Release => self.send_release(engine, leg),
        }
        let wants = |fetch: &Fetch| fetch.source.engine == engine && fetch.source.leg.0 == leg;
        if let Some(at) = self.waiting.iter().position(|(_, fetch)| wants(fetch)) {
            let (_, fetch) = self.waiting.swap_remove(at);
            self.begin(fetch, now, now);
        }
        Ok(())
    }

    pub(crate) fn fetch(
        &mut self,
        engine: EngineId,
        leg: LegId,
        source: Source,
        groups: Vec<FetchGroup>,
        now: Time,
    ) -> Result<(), Violation> {
        if self.engines.get(&engine).is_none_or(|engine| engine.map.is_none()) {
            return Err(Violation::NotRegistered { engine });
        }
        self.begin(Fetch { engine, leg, source, groups }, now, now.plus(HELD_WAIT));
        Ok(())
    }

    /// The leg needs nothing of its source: no copy, but the source can let go.
    pub(crate) fn skip(&mut self, engine: EngineId, leg: LegId, source: Source, now: Time) {
        self.emit_fetched(engine, leg, source, nothing_fetched(now, Ok(())));
        self.release(source.engine, source.leg.0);
    }

    pub(crate) fn released(&mut self, engine: EngineId, leg: LegId) {
        if self.leases.released((engine, leg)) {
            self.effects.push(Effect::Emit(KvEvent::Released { engine, leg }));
        }
    }

    // ---- what the fleet, the mover and the clock say

    pub(crate) fn release(&mut self, engine: EngineId, leg: LegId) {
        if self.leases.release((engine, leg)) {
            self.send_release(engine, leg);
        }
    }

    pub(crate) fn mapped(&mut self, id: EngineId, result: Result<(), String>, now: Time) {
        let Some(engine) = self.engines.get_mut(&id).filter(|engine| !engine.closing) else { return };
        match result {
            Ok(()) => {
                engine.mapped = true;
                self.send(id, Half::Worker, ToEngine::Registered {});
                self.emit_ready(id);
            }
            Err(why) => {
                tracing::warn!("{why}");
                self.send(id, Half::Worker, ToEngine::Refused { why });
                self.lost(id, now);
            }
        }
    }

    pub(crate) fn unmapped(&mut self, id: EngineId) {
        if self.is_closing(id) {
            self.engines.remove(&id);
            self.effects.push(Effect::Close { engine: id });
        }
    }

    pub(crate) fn copied(&mut self, id: u64, copied: Copied) {
        let Some(Copying { fetch, .. }) = self.copying.remove(&id) else { return };
        let Fetch { engine, leg, source, .. } = fetch;
        if self.leases.fetched((source.engine, source.leg.0)) {
            self.send_release(source.engine, source.leg.0);
        }
        self.answer(engine, leg, source, copied);
        for id in [source.engine, engine] {
            if let Some(engine) = self.engines.get_mut(&id) {
                engine.copies -= 1;
            }
            self.unmap_if_idle(id);
        }
    }

    /// A connection of this engine is gone or must go.
    pub(crate) fn lost(&mut self, id: EngineId, now: Time) {
        if self.engines.contains_key(&id) && !self.is_closing(id) {
            self.effects.push(Effect::Emit(KvEvent::Disconnected { engine: id }));
        }
        self.forget(id, now);
    }

    /// The engine has died or is about to be ended; the caller knows that, so it is not told.
    pub(crate) fn forget(&mut self, id: EngineId, now: Time) {
        let Some(engine) = self.engines.get_mut(&id) else { return };
        if std::mem::replace(&mut engine.closing, true) {
            return;
        }
        self.leases.drop_engine(id);
        let (gone, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, fetch)| fetch.engine == id || fetch.source.engine == id);
        self.waiting = waiting;
        let gone: Vec<(Time, Fetch)> = gone;
        for (_, fetch) in gone {
            self.fail(fetch, format!("{id} is gone"), now);
        }
        for copying in self.copying.values().filter(|c| c.fetch.engine == id || c.fetch.source.engine == id) {
            copying.stop.set();
        }
        self.unmap_if_idle(id);
    }

    pub(crate) fn tick(&mut self, now: Time) {
        for (engine, leg) in self.leases.expire(now) {
            self.effects.push(Effect::Emit(KvEvent::LeaseExpired { engine, leg }));
            self.send_release(engine, leg);
        }
        while let Some(at) = self.waiting.iter().position(|(until, _)| *until <= now) {
            let (_, fetch) = self.waiting.swap_remove(at);
            let why = format!("{} did not report within {HELD_WAIT} that it holds leg {}", fetch.source.engine, fetch.source.leg.0);
            self.fail(fetch, why, now);
        }
    }

    /// Stops every copy; their outcomes still come in.
    pub(crate) fn stop_copies(&mut self) {
        for copying in self.copying.values() {
            copying.stop.set();
        }
    }

    // ---- within

    /// Starts the copy, or waits until `wait_until` for the source to hold the blocks.
    fn begin(&mut self, fetch: Fetch, now: Time, wait_until: Time) {
        let (from, to) = match self.ends(&fetch) {
            Ok(ends) => ends,
            Err(why) => return self.fail(fetch, why, now),
        };
        let (source, leg) = (fetch.source.engine, fetch.source.leg.0);
        let why = match self.leases.fetch((source, leg), fetch.source.tokens) {
            Ok(tables) => match pair_blocks(tables, &fetch.groups) {
                Ok(pairs) => return self.copy(fetch, from, to, pairs, now),
                Err(why) => {
                    self.leases.unfetch((source, leg), now);
                    why
                }
            },
            Err(FetchError::NotHeld) if wait_until > now => return self.waiting.push((wait_until, fetch)),
            Err(FetchError::NotHeld) => format!("{source} does not hold leg {leg}"),
            Err(FetchError::Over) => format!("the blocks of leg {leg} on {source} are taken or released"),
            Err(FetchError::TooFew { tokens }) => {
                format!("leg {leg} on {source} covers {tokens} tokens, {} were asked for", fetch.source.tokens)
            }
        };
        self.fail(fetch, why, now);
    }

    /// The maps of the two engines of a fetch, if blocks can go from one to the other.
    fn ends(&self, fetch: &Fetch) -> Result<(Arc<KvMap>, Arc<KvMap>), String> {
        if self.waiting.len() + self.copying.len() >= FETCHES_MAX {
            return Err(format!("{FETCHES_MAX} fetches are waiting, the most there may be"));
        }
        if fetch.source.engine == fetch.engine {
            return Err(format!("{} cannot fetch from itself", fetch.engine));
        }
        let map = |id: EngineId| {
            let engine = self.engines.get(&id).filter(|engine| engine.ready());
            engine.and_then(|engine| engine.map.clone()).ok_or(format!("{id} is not connected"))
        };
        let (from, to) = (map(fetch.source.engine)?, map(fetch.engine)?);
        from.matches(&to).map_err(|mismatch| mismatch.to_string())?;
        Ok((from, to))
    }

    fn copy(&mut self, fetch: Fetch, from: Arc<KvMap>, to: Arc<KvMap>, pairs: Vec<Vec<BlockPair>>, queued: Time) {
        for id in [fetch.source.engine, fetch.engine] {
            if let Some(engine) = self.engines.get_mut(&id) {
                engine.copies += 1;
            }
        }
        let (id, stop) = (self.next_copy, Arc::new(Stop::default()));
        self.next_copy += 1;
        self.copying.insert(id, Copying { fetch, stop: stop.clone() });
        self.effects.push(Effect::Copy(CopyJob { id, from, to, pairs, queued, stop }));
    }

    /// Answers a fetch for which nothing is copied. Its engine computes the prompt, so the source can let go.
    fn fail(&mut self, fetch: Fetch, why: String, now: Time) {
        let holder = (fetch.source.engine, fetch.source.leg.0);
        if self.leases.release(holder) {
            self.send_release(holder.0, holder.1);
        }
        self.answer(fetch.engine, fetch.leg, fetch.source, nothing_fetched(now, Err(why)));
    }

    /// The fleet is told first: once the engine knows, the leg's tokens are on their way.
    fn answer(&mut self, engine: EngineId, leg: LegId, source: Source, copied: Copied) {
        let error = copied.result.as_ref().err().cloned();
        self.emit_fetched(engine, leg, source, copied);
        self.send(engine, Half::Worker, ToEngine::Fetched { leg: LegName(leg), error });
    }

    /// Happens once: when an engine is lost, or with its last copy after that.
    fn unmap_if_idle(&mut self, id: EngineId) {
        if self.engines.get(&id).is_some_and(|engine| engine.closing && engine.copies == 0) {
            self.effects.push(Effect::Unmap { engine: id });
        }
    }

    fn emit_ready(&mut self, engine: EngineId) {
        if self.engines.get(&engine).is_some_and(Engine::ready) {
            self.effects.push(Effect::Emit(KvEvent::Ready { engine }));
            self.emit_copy_costs(engine);
        }
    }

    /// What copies cost between this engine and the others that are ready: what a token comes to is known from their maps.
    fn emit_copy_costs(&mut self, engine: EngineId) {
        let ready = |id: &EngineId| self.engines.get(id).filter(|engine| engine.ready()).and_then(|engine| engine.map.as_deref());
        let Some(own) = ready(&engine) else { return };
        let footprint = Footprint::of(own);
        let fitting = |other: &&EngineId| ready(other).is_some_and(|map| own.matches(map).is_ok());
        let pairs = self.engines.keys().filter(fitting).flat_map(|&other| [(engine, other), (other, engine)]);
        let cost = |(from, to)| {
            let lines = self.links.get(from, to)?.lines(&footprint);
            Some(Effect::Emit(KvEvent::CopyCost { from, to, lines }))
        };
        let costs: Vec<Effect> = pairs.filter_map(cost).collect();
        self.effects.extend(costs);
    }

    fn emit_fetched(&mut self, to: EngineId, leg: LegId, source: Source, copied: Copied) {
        let Copied { waited, started, copy, bytes, byte_ranges, result } = copied;
        let (from, source) = (source.engine, source.leg.0);
        let error = result.err();
        self.effects.push(Effect::Emit(KvEvent::Fetched {
            leg,
            source,
            from,
            to,
            waited,
            started,
            copy,
            bytes,
            byte_ranges,
            error,
        }));
    }

    fn send_release(&mut self, engine: EngineId, leg: LegId) {
        self.send(engine, Half::Worker, ToEngine::Release { leg: LegName(leg) });
    }

    fn send(&mut self, engine: EngineId, half: Half, message: ToEngine) {
        self.effects.push(Effect::Send { engine, half, message });
    }
}

/// The outcome where there was no copy.
pub(crate) fn nothing_fetched(now: Time, result: Result<(), String>) -> Copied {
    Copied { waited: Micros::ZERO, started: now, copy: Micros::ZERO, bytes: Bytes(0), byte_ranges: 0, result }
}

/// Pairs each block to fill with the source's block at the same position of the prompt.
fn pair_blocks(tables: &Tables, groups: &[FetchGroup]) -> Result<Vec<Vec<BlockPair>>, String> {
    if tables.len() != groups.len() {
        return Err(format!("the source has {} KV groups, the fetch names {}", tables.len(), groups.len()));
    }
    let mut pairs = Vec::with_capacity(groups.len());
    for (number, (table, group)) in tables.iter().zip(groups).enumerate() {
        let mut of_group = Vec::with_capacity(group.blocks.len());
        for (position, target) in (group.first as usize..).zip(&group.blocks) {
            // A position outside a sliding window has no block to fill.
            let Some(target) = *target else { continue };
            match table.get(position).copied().flatten() {
                Some(source) => of_group.push(BlockPair { source, target }),
                None => return Err(format!("the source holds no block at position {position} of KV group {number}")),
            }
        }
        pairs.push(of_group);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests;
