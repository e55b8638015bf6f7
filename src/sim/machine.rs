//! The simulation itself: a queue of what is due, the router, and one modelled scheduler per engine.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::Rng as _;

use super::{EVENTS_MAX, Run, Served, SimError};
use crate::config::RouterSettings;
use crate::core::{Arrangement, Bytes, EngineId, LegOutput, Micros, Request, RequestId, Rng, Time, seeded};
use crate::engine::virtual_engine::{LoadRequest, Scheduler, VirtualSettings};
use crate::router::{Action, CostModel, EngineFacts, Event, Router};
use crate::telemetry::{Outcome, RequestRecord, RouterNote};

/// How much a step's length varies around the model, up or down.
const NOISE: f64 = 0.1;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Arrival(usize),
    StepEnds(u16),
    CopyEnds { to: u16, load: usize },
    Tick,
}

pub(super) struct Machine<'a> {
    now: Time,
    due: BinaryHeap<Reverse<(Time, u64, Due)>>,
    scheduled: u64,
    router: Router,
    actions: Vec<Action>,
    engines: Vec<Scheduler>,
    busy: Vec<bool>,
    loads: Vec<LoadRequest>,
    settings: &'a VirtualSettings,
    requests: &'a [(Time, Request)],
    served: Vec<Served>,
    tick: Micros,
    notes: Vec<(Time, RouterNote)>,
    rng: Rng,
}

impl<'a> Machine<'a> {
    pub(super) fn new(
        arrangement: &Arrangement,
        settings: &'a VirtualSettings,
        costs: CostModel,
        router_settings: &RouterSettings,
        requests: &'a [(Time, Request)],
        seed: u64,
    ) -> Result<Machine<'a>, SimError> {
        let facts = EngineFacts {
            max_model_len: settings.max_model_len,
            max_num_batched_tokens: settings.max_num_batched_tokens,
            max_num_seqs: settings.max_num_seqs,
            kv_tokens: u64::from(settings.kv_blocks) * u64::from(settings.block_size),
            kv_transfer: true,
        };
        let engines = arrangement.roles.len();
        let in_flight = RouterSettings { max_in_flight: requests.len() as u32, ..router_settings.clone() };
        let mut router = Router::new(&vec![facts; engines], &in_flight);
        router.arrange(arrangement)?;
        router.set_costs(costs);
        let tuned = |&tuning: &_| {
            let mut scheduler = Scheduler::new(settings);
            scheduler.tune(tuning);
            scheduler
        };
        let served = || Served { token_us: Vec::new(), tokens: Vec::new(), end: None };
        Ok(Machine {
            now: Time(0),
            due: BinaryHeap::new(),
            scheduled: 0,
            router,
            actions: Vec::new(),
            engines: arrangement.tunings.iter().map(tuned).collect(),
            busy: vec![false; engines],
            loads: Vec::new(),
            settings,
            requests,
            served: requests.iter().map(|_| served()).collect(),
            tick: Micros(router_settings.tick_ms * 1_000),
            notes: Vec::new(),
            rng: seeded(seed, "noise"),
        })
    }

    pub(super) fn run(mut self, arrangement: &Arrangement) -> Result<Run, SimError> {
        self.schedule(Time(0), Due::Tick);
        for (i, (at, _)) in self.requests.iter().enumerate() {
            self.schedule(*at, Due::Arrival(i));
        }
        while let Some(Reverse((at, _, due))) = self.due.pop() {
            if self.scheduled > EVENTS_MAX {
                return Err(SimError::Endless { arrangement: arrangement.name.clone() });
            }
            self.now = at;
            self.happens(due);
        }
        let notes = std::mem::take(&mut self.notes);
        let requests = self.records(&arrangement.name);
        let requests = requests.ok_or_else(|| SimError::Stuck { arrangement: arrangement.name.clone() })?;
        Ok(Run { requests, notes })
    }

    fn schedule(&mut self, at: Time, due: Due) {
        self.scheduled += 1;
        self.due.push(Reverse((at, self.scheduled, due)));
    }

    fn happens(&mut self, due: Due) {
        match due {
            Due::Arrival(i) => {
                // The place in the workload is the id, so that a token finds its record.
                let request = Request { id: RequestId(i as u64), ..self.requests[i].1.clone() };
                self.feed(Event::Arrived(request));
            }
            Due::Tick => {
                self.feed(Event::Tick);
                // As long as anything is to happen; without, time would go on for ever.
                if !self.due.is_empty() {
                    self.schedule(self.now.plus(self.tick), Due::Tick);
                }
            }
            Due::StepEnds(engine) => {
                let at = usize::from(engine);
                self.busy[at] = false;
                let (outputs, stats) = self.engines[at].finish_step();
                for LegOutput { leg, tokens, cached_tokens, finish } in &outputs {
                    let finish = finish.as_ref().map(|finish| (&finish.reason, finish.held));
                    self.feed(Event::Output { leg: *leg, tokens, cached_tokens: *cached_tokens, finish });
                }
                self.feed(Event::EngineStats { engine: EngineId(engine), stats });
                self.kick(at);
            }
            Due::CopyEnds { to, load } => {
                let LoadRequest { leg, source } = self.loads[load];
                let from = source.engine.index();
                let kv = self.engines[from].held(source.leg);
                self.engines[from].release(source.leg);
                self.engines[usize::from(to)].loaded(leg, kv);
                let copy = self.settings.timing.copy(source.tokens);
                let bytes = Bytes(self.settings.kv_bytes_per_token * u64::from(source.tokens));
                self.feed(Event::KvMoved { leg, copy, bytes, ok: kv.is_some() });
                self.kick(from);
                self.kick(usize::from(to));
            }
        }
    }

    fn feed(&mut self, event: Event<'_>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.router.handle(self.now, event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Submit { engine, leg } => {
                    self.engines[engine.index()].submit(leg);
                    self.kick(engine.index());
                }
                Action::Abort { engine, leg } => self.engines[engine.index()].abort(leg),
                Action::Release { engine, leg } => drop(self.engines[engine.index()].release(leg)),
                Action::Tune { engine, tuning } => self.engines[engine.index()].tune(tuning),
                Action::Note(note) => self.notes.push((self.now, *note)),
                Action::Emit { request, tokens } => {
                    let served = &mut self.served[request.0 as usize];
                    served.token_us.extend(tokens.iter().map(|_| Micros(self.now.0)));
                    served.tokens.extend(tokens);
                }
                Action::Finish { request, result } => self.served[request.0 as usize].end = Some((Micros(self.now.0), result)),
            }
        }
        self.actions = actions;
    }

    /// Starts the engine's next step, if it is between steps and has something to do.
    fn kick(&mut self, at: usize) {
        if self.busy[at] {
            return;
        }
        let step = self.engines[at].begin_step();
        for load in self.engines[at].take_loads() {
            self.loads.push(load);
            let ends = self.now.plus(self.settings.timing.copy(load.source.tokens));
            self.schedule(ends, Due::CopyEnds { to: at as u16, load: self.loads.len() - 1 });
        }
        if let Some(step) = step {
            self.busy[at] = true;
            let takes = step.takes.0 as f64 * self.rng.random_range(1.0 - NOISE..1.0 + NOISE);
            self.schedule(self.now.plus(Micros(takes as u64)), Due::StepEnds(at as u16));
        }
    }

    /// None when a request has no end.
    fn records(self, arm: &str) -> Option<Vec<RequestRecord>> {
        let record = |(index, ((arrived, request), served)): (usize, (&(Time, Request), Served))| {
            let (ended_us, result) = served.end?;
            Some(RequestRecord {
                arm: arm.to_string(),
                repetition: 0,
                id: request.id,
                index: index as u32,
                class: request.class,
                prompt_tokens: request.prompt_tokens(),
                objectives: request.objectives,
                arrived_us: Micros(arrived.0),
                admitted_us: Some(Micros(arrived.0)),
                token_us: served.token_us,
                tokens: served.tokens,
                legs: Vec::new(),
                handoffs: Vec::new(),
                ended_us,
                outcome: result.map_or_else(|error| Outcome::Failed { error }, |()| Outcome::Done),
            })
        };
        self.requests.iter().zip(self.served).enumerate().map(record).collect()
    }
}
