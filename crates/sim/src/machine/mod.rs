//! The simulation itself: a host whose backend is a modelled fleet, and what is due.

mod copies;
mod due;
mod engine;
mod failures;
mod fleet;
mod steps;
mod watch;

use dualpool_host::{Fold, Host};
use dualpool_model::StepOutput;
use dualpool_router::{EngineFacts, Event};
use dualpool_types::{EngineId, Micros, Request, RequestId, Time};

use super::{EVENTS_WITHOUT_END_MAX, IDLE_TICKS_MAX, SimError, Simulation, Totals};
use engine::{Engine, facts};
use fleet::Fleet;

pub(super) struct Machine<'a, I: Iterator<Item = (Time, Request)>, F> {
    simulation: &'a Simulation<'a>,
    requests: std::iter::Peekable<I>,
    host: Host<Fleet<'a>, F>,
    /// How often the engines are looked at while requests are in flight; never for none.
    sample_every: Option<Micros>,
    outputs: Vec<StepOutput>,
    ticking: bool,
    sampling: bool,
    idle_ticks: u64,
    events_at_last_end: u64,
    totals: Totals,
}

impl<'a, I: Iterator<Item = (Time, Request)>, F: Fold> Machine<'a, I, F> {
    pub(super) fn new(
        simulation: &'a Simulation<'a>,
        requests: I,
        sample_every: Option<Micros>,
        folds: F,
    ) -> Result<Self, SimError> {
        let Simulation { engines, arrangement, router: settings, costs, faults, .. } = *simulation;
        faults.check(engines.len())?;
        let priced = (0..).map(|id| settings.cost_per_hour_of(EngineId(id))).zip(engines);
        let facts: Vec<EngineFacts> = priced.map(|(cost_per_hour, engine)| facts(engine, cost_per_hour)).collect();
        let mut host = Host::new(&facts, settings, Fleet::new(simulation), folds);
        host.arrange(arrangement)?;
        host.set_costs(costs);
        Ok(Machine {
            simulation,
            requests: requests.peekable(),
            host,
            sample_every,
            outputs: Vec::new(),
            ticking: false,
            sampling: false,
            idle_ticks: 0,
            events_at_last_end: 0,
            totals: Totals::default(),
        })
    }

    pub(super) fn run(mut self) -> Result<Totals, SimError> {
        loop {
            // Whatever happens at the same time as an arrival comes after it.
            let due = self.host.backend.agenda.next_at();
            if let Some((at, request)) = self.requests.next_if(|(at, _)| due.is_none_or(|due| *at <= due)) {
                self.host.backend.time_is(at);
                self.arrives(request);
            } else if self.is_over() {
                break;
            } else if let Some((at, due)) = self.host.backend.agenda.pop() {
                self.host.backend.time_is(at);
                self.happens(due);
            } else {
                break;
            }
            if std::mem::take(&mut self.host.backend.one_ended) {
                self.events_at_last_end = self.totals.events;
            }
            self.totals.events += 1;
            if self.totals.events - self.events_at_last_end > EVENTS_WITHOUT_END_MAX {
                return Err(SimError::Endless { arrangement: self.simulation.arrangement.name.clone() });
            }
            if self.idle_ticks > IDLE_TICKS_MAX {
                return Err(self.stuck());
            }
        }
        if self.host.backend.in_flight.is_empty() { Ok(self.end()) } else { Err(self.stuck()) }
    }

    fn stuck(&self) -> SimError {
        let arrangement = self.simulation.arrangement.name.clone();
        SimError::Stuck { arrangement, requests: self.host.backend.in_flight.len() }
    }

    /// All requests came and ended, and no held block may still be fetched or waits for its lease's end. What else is due, such as a
    /// death, changes nothing.
    fn is_over(&mut self) -> bool {
        self.host.backend.in_flight.is_empty()
            && self.requests.peek().is_none()
            && self.host.router().in_flight() == 0
            && self.host.backend.engines.iter().all(Engine::is_at_rest)
    }

    fn arrives(&mut self, request: Request) {
        // The place in the workload is the id, so that ids are unique whatever the caller's are.
        let request = Request { id: RequestId(self.totals.requests), ..request };
        self.totals.requests += 1;
        let in_flight = self.host.backend.arrives(request.id);
        self.totals.in_flight_max = self.totals.in_flight_max.max(in_flight);
        self.host.feed(Event::Arrived(request));
        self.keep_ticking();
        self.keep_sampling();
    }

    /// Brings the engine's queue up to date, with what the router counts.
    fn count_depth(&mut self, id: EngineId) {
        let depth = self.host.router().demand(id).depth();
        let fleet = &mut self.host.backend;
        fleet.engines[id.index()].has_depth(depth, fleet.now);
    }

    fn end(mut self) -> Totals {
        for index in 0..self.host.backend.engines.len() {
            self.count_depth(EngineId(index as u16));
        }
        let Fleet { now, engines, leases_expired, .. } = &self.host.backend;
        let ended = Micros(now.0);
        let alive = engines.iter().filter(|engine| engine.alive);
        Totals {
            ended,
            leases_expired: *leases_expired,
            blocks_leaked: alive.map(|engine| engine.scheduler.blocks_in_use()).sum(),
            unsettled: self.host.router().in_flight() as u64,
            engines: engines.iter().map(|engine| engine.totals(ended)).collect(),
            ..self.totals
        }
    }
}
