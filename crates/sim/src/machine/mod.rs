//! The simulation itself: what is due, the router, and one modelled scheduler per engine.

mod copies;
mod due;
mod engine;
mod failures;
mod router;
mod steps;
mod watch;

use dualpool_model::StepOutput;
use dualpool_router::{Action, EngineFacts, Event, Router};
use dualpool_types::{EngineId, IdMap, LegId, Micros, Request, RequestId, Rng, Time, seeded};

use super::client::Client;
use super::clock::Agenda;
use super::faults::Mishaps;
use super::{EVENTS_WITHOUT_END_MAX, IDLE_TICKS_MAX, Observer, SimError, Simulation, Totals};
use due::Due;
use engine::{Engine, facts};

pub(super) struct Machine<'a, I: Iterator<Item = (Time, Request)>, O> {
    simulation: &'a Simulation<'a>,
    now: Time,
    agenda: Agenda<Due>,
    requests: std::iter::Peekable<I>,
    observer: &'a mut O,
    router: Router,
    actions: Vec<Action>,
    engines: Vec<Engine<'a>>,
    /// By request in flight.
    clients: IdMap<RequestId, Client>,
    copies: Vec<(EngineId, LegId)>,
    outputs: Vec<StepOutput>,
    noise: Rng,
    mishaps: Mishaps<'a>,
    ticking: bool,
    sampling: bool,
    idle_ticks: u64,
    /// The router asked for something since this was last set to false.
    asked: bool,
    events_at_last_end: u64,
    totals: Totals,
}

impl<'a, I: Iterator<Item = (Time, Request)>, O: Observer> Machine<'a, I, O> {
    pub(super) fn new(simulation: &'a Simulation<'a>, requests: I, observer: &'a mut O) -> Result<Self, SimError> {
        let Simulation { engines, arrangement, router: settings, costs, faults, seed } = *simulation;
        faults.check(engines.len())?;
        let priced = (0..).map(|id| settings.cost_per_hour_of(EngineId(id))).zip(engines);
        let facts: Vec<EngineFacts> = priced.map(|(cost_per_hour, engine)| facts(engine, cost_per_hour)).collect();
        let mut router = Router::new(&facts, settings);
        router.arrange(arrangement)?;
        router.set_costs(costs);
        let mut mishaps = Mishaps::new(faults, seed);
        let mut agenda = Agenda::new();
        for (engine, at) in mishaps.deaths(engines.len()) {
            agenda.schedule(at, Due::Dies(engine));
        }
        for link in &faults.cut_link {
            agenda.schedule(Time(link.at_ms * 1_000), Due::LinkBreaks(link.engine));
        }
        Ok(Machine {
            simulation,
            now: Time(0),
            agenda,
            requests: requests.peekable(),
            observer,
            router,
            actions: Vec::new(),
            engines: engines.iter().zip(&arrangement.tunings).map(|(engine, &tuning)| Engine::new(engine, tuning)).collect(),
            clients: IdMap::default(),
            copies: Vec::new(),
            outputs: Vec::new(),
            noise: seeded(seed, "noise"),
            mishaps,
            ticking: false,
            sampling: false,
            idle_ticks: 0,
            asked: false,
            events_at_last_end: 0,
            totals: Totals::default(),
        })
    }

    pub(super) fn run(mut self) -> Result<Totals, SimError> {
        loop {
            // Whatever happens at the same time as an arrival comes after it.
            let due = self.agenda.next_at();
            if let Some((at, request)) = self.requests.next_if(|(at, _)| due.is_none_or(|due| *at <= due)) {
                self.now = self.now.max(at);
                self.arrives(request);
            } else if self.is_over() {
                break;
            } else if let Some((at, due)) = self.agenda.pop() {
                self.now = self.now.max(at);
                self.happens(due);
            } else {
                break;
            }
            self.totals.events += 1;
            let arrangement = || self.simulation.arrangement.name.clone();
            if self.totals.events - self.events_at_last_end > EVENTS_WITHOUT_END_MAX {
                return Err(SimError::Endless { arrangement: arrangement() });
            }
            if self.idle_ticks > IDLE_TICKS_MAX {
                return Err(SimError::Stuck { arrangement: arrangement(), requests: self.clients.len() });
            }
        }
        if !self.clients.is_empty() {
            let arrangement = self.simulation.arrangement.name.clone();
            return Err(SimError::Stuck { arrangement, requests: self.clients.len() });
        }
        Ok(self.end())
    }

    /// All requests came and ended, and nothing is held that somebody may still fetch or that waits for its lease's end. What else is
    /// due, such as a death, concerns nobody.
    fn is_over(&mut self) -> bool {
        self.clients.is_empty()
            && self.requests.peek().is_none()
            && self.router.in_flight() == 0
            && self.engines.iter().all(Engine::is_at_rest)
    }

    fn arrives(&mut self, request: Request) {
        // The place in the workload is the id, so that ids are unique whatever the caller's are.
        let request = Request { id: RequestId(self.totals.requests), ..request };
        self.totals.requests += 1;
        self.clients.insert(request.id, Client::new(&self.simulation.arrangement.name, &request, self.now));
        self.totals.in_flight_max = self.totals.in_flight_max.max(self.clients.len() as u64);
        if let Some(after) = self.mishaps.client_leaves() {
            self.agenda.schedule(self.now.plus(after), Due::Leaves(request.id));
        }
        self.feed(Event::Arrived(request));
        self.keep_ticking();
        self.keep_sampling();
    }

    fn end(mut self) -> Totals {
        for index in 0..self.engines.len() {
            self.count_depth(EngineId(index as u16));
        }
        let ended = Micros(self.now.0);
        let alive = self.engines.iter().filter(|engine| engine.alive);
        Totals {
            ended,
            blocks_leaked: alive.map(|engine| engine.scheduler.blocks_in_use()).sum(),
            unsettled: self.router.in_flight() as u64,
            engines: self.engines.iter().map(|engine| engine.totals(ended)).collect(),
            ..self.totals
        }
    }
}
