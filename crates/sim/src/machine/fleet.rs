//! The modelled fleet: what the router asks for reaches engines, clients and the mover in virtual time.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use dualpool_host::Backend;
use dualpool_router::{Action, Router};
use dualpool_types::{EngineId, IdHasher, LegId, RequestId, Rng, Time, seeded};

use super::due::{Due, Order};
use super::engine::Engine;
use crate::clock::Agenda;
use crate::faults::Mishaps;
use crate::{Faults, Simulation};

pub(super) struct Fleet<'a> {
    pub faults: &'a Faults,
    pub now: Time,
    pub agenda: Agenda<Due>,
    pub engines: Vec<Engine<'a>>,
    /// Legs whose held blocks are being copied, and their engines.
    pub copies: Vec<(EngineId, LegId)>,
    pub noise: Rng,
    pub mishaps: Mishaps<'a>,
    /// Requests that came and are not over.
    pub in_flight: HashSet<RequestId, BuildHasherDefault<IdHasher>>,
    /// The router asked for something since this was last set to false.
    pub asked: bool,
    /// A request ended since this was last set to false.
    pub one_ended: bool,
    pub leases_expired: u64,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(simulation: &Simulation<'a>) -> Fleet<'a> {
        let Simulation { engines, arrangement, faults, seed, .. } = *simulation;
        let mut mishaps = Mishaps::new(faults, seed);
        let mut agenda = Agenda::new();
        for (engine, at) in mishaps.deaths(engines.len()) {
            agenda.schedule(at, Due::Dies(engine));
        }
        for link in &faults.cut_link {
            agenda.schedule(Time(link.at_ms * 1_000), Due::LinkBreaks(link.engine));
        }
        Fleet {
            faults,
            now: Time(0),
            agenda,
            engines: engines.iter().zip(&arrangement.tunings).map(|(engine, &tuning)| Engine::new(engine, tuning)).collect(),
            copies: Vec::new(),
            noise: seeded(seed, "noise"),
            mishaps,
            in_flight: HashSet::default(),
            asked: false,
            one_ended: false,
            leases_expired: 0,
        }
    }

    /// Time goes on to this moment, and never back.
    pub(super) fn time_is(&mut self, at: Time) {
        self.now = self.now.max(at);
    }

    /// A request comes, which its client may give up later. Returns how many are in flight with it.
    pub(super) fn arrives(&mut self, request: RequestId) -> u64 {
        self.in_flight.insert(request);
        if let Some(after) = self.mishaps.client_leaves() {
            self.agenda.schedule(self.now.plus(after), Due::Leaves(request));
        }
        self.in_flight.len() as u64
    }
}

impl Backend for Fleet<'_> {
    #[inline]
    fn now(&self) -> Time {
        self.now
    }

    #[inline(always)]
    fn act(&mut self, at: Time, action: Action, router: &Router) {
        self.asked = true;
        match action {
            Action::Submit { engine, leg } => {
                self.engines[engine.index()].has_depth(router.demand(engine).depth(), at);
                self.tell(engine, Order::Submit(leg));
            }
            Action::Detach { engine, leg } => self.tell(engine, Order::Detach(leg)),
            Action::Abort { engine, leg } => self.tell(engine, Order::Abort(leg)),
            Action::Release { engine, leg } => {
                if !self.mishaps.release_is_lost() {
                    self.release(engine, leg);
                }
            }
            Action::Tune { engine, tuning } => self.engines[engine.index()].scheduler.tune(tuning),
            Action::Finish { request, .. } => {
                self.one_ended = true;
                self.in_flight.remove(&request);
            }
            // For readers of the journal.
            Action::Note(_) | Action::Emit { .. } => {}
        }
    }
}
