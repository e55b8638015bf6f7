//! The simulation itself: what is due, the router, and one modelled scheduler per engine.

use rand::Rng as _;

use super::client::Client;
use super::clock::Agenda;
use super::faults::Mishaps;
use super::{EVENTS_WITHOUT_END_MAX, EngineTotals, IDLE_TICKS_MAX, Observer, SimError, Simulation, Totals};
use crate::core::{
    Bytes, EngineId, EngineStats, IdMap, KvSource, Leg, LegId, LegOutput, Micros, Request, RequestId, Rng, Time, seeded,
};
use crate::engine::virtual_engine::{LoadRequest, Scheduler, StepOutput, VirtualSettings};
use crate::router::{Action, EngineFacts, Event, Router};
use crate::telemetry::EngineSample;

/// How much a step's length varies around the model, up or down.
const NOISE: f64 = 0.1;

enum Due {
    /// A leg, or the word that one is to end, reaches its engine.
    Reaches(EngineId, Box<Order>),
    StepEnds(EngineId),
    /// What a step gave reaches the router.
    Gave(EngineId, Box<(Vec<StepOutput>, EngineStats)>),
    /// The router hears of legs that ended outside of a step.
    Ended(EngineId, Vec<LegOutput>),
    CopyEnds(Box<CopyUnderWay>),
    /// The mover's word of a copy reaches the router.
    Moved {
        leg: LegId,
        copy: Micros,
        bytes: Bytes,
        ok: bool,
    },
    /// The mover's word that blocks are held reaches the router's shell.
    Held(EngineId, LegId),
    LeaseEnds(EngineId, LegId),
    Stats(EngineId, Box<EngineStats>),
    Leaves(RequestId),
    LinkBreaks(EngineId),
    Dies(EngineId),
    DeathNoticed(EngineId),
    Tick,
    Sample,
}

/// What an engine is told.
enum Order {
    Submit(Leg),
    Abort(LegId),
    Part(LegId),
}

struct CopyUnderWay {
    leg: LegId,
    source: KvSource,
    to: EngineId,
    started: Time,
}

/// An engine, and what it has done.
struct Engine<'a> {
    settings: &'a VirtualSettings,
    scheduler: Scheduler,
    /// In a step.
    busy: bool,
    alive: bool,
    /// Has its link to the mover.
    linked: bool,
    /// The router's count of its legs, since when, and what it came to until then: legs times microseconds.
    depth: u64,
    depth_since: Time,
    depth_area: u128,
    totals: EngineTotals,
}

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

fn facts(settings: &VirtualSettings, cost_per_hour: Option<f64>) -> EngineFacts {
    EngineFacts {
        max_model_len: settings.max_model_len,
        max_num_batched_tokens: settings.max_num_batched_tokens,
        max_num_seqs: settings.max_num_seqs,
        kv_tokens: u64::from(settings.kv_blocks) * u64::from(settings.block_size),
        kv_transfer: true,
        prefix_block_tokens: if settings.prefix_cache { settings.block_size } else { 0 },
        cost_per_hour,
    }
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
        let engine = |(settings, &tuning): (&'a VirtualSettings, &_)| {
            let mut scheduler = Scheduler::new(settings);
            scheduler.tune(tuning);
            Engine {
                settings,
                scheduler,
                busy: false,
                alive: true,
                linked: true,
                depth: 0,
                depth_since: Time(0),
                depth_area: 0,
                totals: EngineTotals::default(),
            }
        };
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
            engines: engines.iter().zip(&arrangement.tunings).map(engine).collect(),
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
            && self.engines.iter().all(|engine| !engine.alive || (!engine.busy && engine.scheduler.is_idle()))
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

    fn happens(&mut self, due: Due) {
        match due {
            Due::Reaches(engine, order) => self.reaches(engine, *order),
            Due::StepEnds(engine) => self.step_ends(engine),
            Due::Gave(engine, given) => {
                let (mut outputs, stats) = *given;
                self.gave(engine, &mut outputs, stats);
            }
            Due::Ended(engine, ended) => self.legs_ended(engine, &ended),
            Due::CopyEnds(copy) => self.copy_ends(&copy),
            Due::Moved { leg, copy, bytes, ok } => self.feed(Event::KvMoved { leg, copy, bytes, ok }),
            Due::Held(engine, leg) => {
                // The leg may have been given up before its engine got to hold anything.
                if !self.router.needs_blocks_of(leg) {
                    self.release(engine, leg);
                }
            }
            Due::LeaseEnds(engine, leg) => self.lease_ends(engine, leg),
            Due::Stats(engine, stats) => self.feed(Event::EngineStats { engine, stats: *stats }),
            Due::Leaves(request) => {
                if self.clients.contains_key(&request) {
                    self.feed(Event::Cancelled(request));
                }
            }
            Due::LinkBreaks(engine) => self.link_breaks(engine),
            Due::Dies(engine) => self.dies(engine),
            Due::DeathNoticed(engine) => self.feed(Event::EngineDied { engine, why: "the simulation killed it" }),
            Due::Tick => self.tick(),
            Due::Sample => self.sample(),
        }
    }

    fn step_ends(&mut self, id: EngineId) {
        let engine = &mut self.engines[id.index()];
        if !engine.alive {
            return; // What it was computing is lost.
        }
        engine.busy = false;
        self.totals.steps += 1;
        let mut outputs = std::mem::take(&mut self.outputs);
        engine.scheduler.finish_step(&mut outputs);
        let stats = engine.scheduler.stats();
        for output in outputs.iter().filter(|output| output.finish.as_ref().is_some_and(|finish| finish.held.is_some())) {
            self.held(id, output.leg);
        }
        match self.simulation.faults.late_outputs_ms {
            0 => {
                self.gave(id, &mut outputs, stats);
                self.outputs = outputs;
            }
            late => self.agenda.schedule(self.now.plus(Micros(late * 1_000)), Due::Gave(id, Box::new((outputs, stats)))),
        }
        self.kick(id);
    }

    /// Tells the router what a step gave, and empties `outputs`.
    fn gave(&mut self, id: EngineId, outputs: &mut Vec<StepOutput>, stats: EngineStats) {
        let now = self.now;
        for StepOutput { leg, token, cached_tokens, finish } in outputs.drain(..) {
            if let Some(client) = self.clients.get_mut(&leg.request) {
                client.gave(now, leg, token.is_some(), cached_tokens, finish.is_some());
            }
            let finish = finish.as_ref().map(|finish| (&finish.reason, finish.held));
            self.feed(Event::Output { leg, tokens: token.as_slice(), cached_tokens, finish });
        }
        match self.mishaps.stats() {
            Some(Micros::ZERO) => self.feed(Event::EngineStats { engine: id, stats }),
            Some(late) => self.agenda.schedule(now.plus(late), Due::Stats(id, Box::new(stats))),
            None => {}
        }
        self.count_depth(id);
    }

    fn legs_ended(&mut self, id: EngineId, ended: &[LegOutput]) {
        for LegOutput { leg, finish, .. } in ended {
            if let Some(client) = self.clients.get_mut(&leg.request) {
                client.gave(self.now, *leg, false, None, true);
            }
            let finish = finish.as_ref().map(|finish| (&finish.reason, finish.held));
            self.feed(Event::Output { leg: *leg, tokens: &[], cached_tokens: None, finish });
        }
        self.count_depth(id);
    }

    /// The engine holds blocks for a leg that ended.
    fn held(&mut self, engine: EngineId, leg: LegId) {
        if !self.engines[engine.index()].linked {
            return self.release(engine, leg); // Nobody could come for them.
        }
        let lease = Micros(self.simulation.faults.lease_ms * 1_000);
        self.agenda.schedule(self.now.plus(lease), Due::LeaseEnds(engine, leg));
        if let Some(late) = self.mishaps.mover_says() {
            self.agenda.schedule(self.now.plus(late), Due::Held(engine, leg));
        }
    }

    fn lease_ends(&mut self, engine: EngineId, leg: LegId) {
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

    fn copy_ends(&mut self, copy: &CopyUnderWay) {
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
        self.engines[to.index()].scheduler.loaded(leg, kv);
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

    fn link_breaks(&mut self, id: EngineId) {
        let engine = &mut self.engines[id.index()];
        if engine.alive && std::mem::replace(&mut engine.linked, false) {
            engine.scheduler.release_all();
            self.feed(Event::KvLost { engine: id });
            self.kick(id);
        }
    }

    fn dies(&mut self, id: EngineId) {
        let engine = &mut self.engines[id.index()];
        if !std::mem::replace(&mut engine.alive, false) {
            return;
        }
        engine.totals.died = Some(Micros(self.now.0));
        let noticed = Micros(self.simulation.faults.engine_death.noticed_after_ms * 1_000);
        self.agenda.schedule(self.now.plus(noticed), Due::DeathNoticed(id));
    }

    fn keep_ticking(&mut self) {
        if !std::mem::replace(&mut self.ticking, true) {
            self.schedule_on_grid(Micros(self.simulation.router.tick_ms * 1_000), Due::Tick);
        }
    }

    fn keep_sampling(&mut self) {
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

    fn tick(&mut self) {
        self.ticking = false;
        let quiet = self.agenda.len() == usize::from(self.sampling) && self.requests.peek().is_none();
        self.asked = false;
        self.feed(Event::Tick);
        self.idle_ticks = if quiet && !self.asked { self.idle_ticks + 1 } else { 0 };
        if !self.clients.is_empty() || self.router.in_flight() > 0 {
            self.keep_ticking();
        }
    }

    fn sample(&mut self) {
        self.sampling = false;
        for engine in self.router.engines() {
            let stats = engine.stats();
            self.observer.sample(EngineSample {
                arm: self.simulation.arrangement.name.clone(),
                repetition: 0,
                at_us: Micros(self.now.0),
                engine: engine.id,
                role: engine.role,
                waiting: engine.load.waiting as u32,
                running: engine.load.running as u32,
                kv_usage: stats.map(|stats| stats.kv_usage),
                prefix_hits: stats.map(|stats| stats.prefix_hits),
                moves_in: self.engines[engine.id.index()].totals.moves_in,
            });
        }
        if !self.clients.is_empty() {
            self.keep_sampling();
        }
    }

    /// Tells the router, and does what it asks for.
    fn feed(&mut self, event: Event<'_>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.router.handle(self.now, event, &mut actions);
        self.asked |= !actions.is_empty();
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Submit { engine, leg } => {
                let role = self.router.role(engine);
                if let Some(client) = self.clients.get_mut(&leg.id.request) {
                    client.sent(self.now, engine, role, &leg);
                }
                self.count_depth(engine);
                self.tell(engine, Order::Submit(leg));
            }
            Action::Part { engine, leg } => {
                if let Some(client) = self.clients.get_mut(&leg.request) {
                    client.parted(leg);
                }
                self.tell(engine, Order::Part(leg));
            }
            Action::Abort { engine, leg } => self.tell(engine, Order::Abort(leg)),
            Action::Release { engine, leg } => {
                if !self.mishaps.release_is_lost() {
                    self.release(engine, leg);
                }
            }
            Action::Tune { engine, tuning } => self.engines[engine.index()].scheduler.tune(tuning),
            Action::Note(note) => self.observer.note(Micros(self.now.0), *note),
            Action::Emit { request, tokens } => {
                if let Some(client) = self.clients.get_mut(&request) {
                    client.emitted(self.now, &tokens);
                }
            }
            Action::Finish { request, result } => {
                self.events_at_last_end = self.totals.events;
                if let Some(client) = self.clients.remove(&request) {
                    self.observer.request(client.end(self.now, result));
                }
            }
        }
    }

    /// The whole round trip lies before the engine: what a client and the router see of it is the same as if half of it lay behind.
    fn tell(&mut self, engine: EngineId, order: Order) {
        match self.engines[engine.index()].settings.timing.round_trip() {
            Micros::ZERO => self.reaches(engine, order),
            late => self.agenda.schedule(self.now.plus(late), Due::Reaches(engine, Box::new(order))),
        }
    }

    fn reaches(&mut self, id: EngineId, order: Order) {
        let engine = &mut self.engines[id.index()];
        if !engine.alive {
            return;
        }
        match order {
            Order::Submit(leg) => engine.scheduler.submit(leg),
            Order::Abort(leg) => engine.scheduler.abort(leg),
            Order::Part(leg) => engine.scheduler.part(leg),
        }
        self.notice_ended(id);
        self.kick(id);
    }

    fn release(&mut self, engine: EngineId, leg: LegId) {
        if self.engines[engine.index()].alive && self.engines[engine.index()].scheduler.release(leg) {
            self.kick(engine);
        }
    }

    /// The router hears of legs that ended outside of a step as it would of any: not in the midst of what it asked for.
    fn notice_ended(&mut self, id: EngineId) {
        let ended = self.engines[id.index()].scheduler.take_ended();
        if !ended.is_empty() {
            let late = Micros(self.simulation.faults.late_outputs_ms * 1_000);
            self.agenda.schedule(self.now.plus(late), Due::Ended(id, ended));
        }
    }

    /// Starts the engine's next step, if it is between steps and has something to do.
    fn kick(&mut self, id: EngineId) {
        let engine = &mut self.engines[id.index()];
        if engine.busy || !engine.alive {
            return;
        }
        let step = engine.scheduler.begin_step();
        for LoadRequest { leg, source } in engine.scheduler.take_loads() {
            let takes = engine.settings.timing.copy(source.tokens);
            let slower = self.simulation.faults.slowdown(self.now, source.engine, id);
            let ends = self.now.plus(Micros((takes.0 as f64 * slower) as u64));
            self.copies.push((source.engine, source.leg));
            let copy = CopyUnderWay { leg, source, to: id, started: self.now };
            self.agenda.schedule(ends, Due::CopyEnds(Box::new(copy)));
        }
        if let Some(step) = step {
            engine.busy = true;
            let takes = Micros((step.takes.0 as f64 * self.noise.random_range(1.0 - NOISE..1.0 + NOISE)) as u64);
            engine.totals.busy += takes;
            self.agenda.schedule(self.now.plus(takes), Due::StepEnds(id));
        }
    }

    /// Brings the engine's queue up to date, with what the router counts.
    fn count_depth(&mut self, id: EngineId) {
        let (depth, now) = (self.router.load(id).depth(), self.now);
        let engine = &mut self.engines[id.index()];
        engine.depth_area += u128::from(engine.depth) * u128::from(now.since(engine.depth_since).0);
        (engine.depth, engine.depth_since) = (depth, now);
        engine.totals.queue_max = engine.totals.queue_max.max(depth);
    }

    fn end(mut self) -> Totals {
        for index in 0..self.engines.len() {
            self.count_depth(EngineId(index as u16));
        }
        let ended = Micros(self.now.0);
        let engines = self.engines.iter().map(|engine| {
            let stats = engine.scheduler.stats();
            EngineTotals {
                steps: stats.steps,
                output_tokens: stats.output_tokens,
                prompt_tokens_computed: stats.prompt_tokens_computed,
                prompt_tokens_cached: stats.prefix_hits,
                evictions: engine.scheduler.evictions(),
                queue_mean: engine.depth_area as f64 / ended.0.max(1) as f64,
                ..engine.totals
            }
        });
        let alive = self.engines.iter().filter(|engine| engine.alive);
        Totals {
            ended,
            blocks_leaked: alive.map(|engine| engine.scheduler.blocks_in_use()).sum(),
            unsettled: self.router.in_flight() as u64,
            engines: engines.collect(),
            ..self.totals
        }
    }
}
