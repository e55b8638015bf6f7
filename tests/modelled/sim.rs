//! A discrete-event clock that drives the router with modelled engines.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use dualpool::config::RouterSettings;
use dualpool::core::{Bytes, Class, EngineId, LegOutput, Micros, Request, RequestId, Rng, Time, TokenId, seeded};
use dualpool::engine::virtual_engine::{LoadRequest, Scheduler, VirtualSettings};
use dualpool::router::{Action, Arrangement, EngineFacts, Event, Router};
use rand::Rng as _;

/// How much a step's length varies around the model, up or down.
const NOISE: f64 = 0.1;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Arrival(usize),
    StepEnds(u16),
    CopyEnds { to: u16, load: usize },
}

struct Sim<'a> {
    now: Time,
    due: BinaryHeap<Reverse<(Time, u64, Due)>>,
    scheduled: u64,
    router: Router,
    engines: Vec<Scheduler>,
    busy: Vec<bool>,
    loads: Vec<LoadRequest>,
    settings: VirtualSettings,
    requests: &'a [(Time, Request)],
    tokens: BTreeMap<RequestId, Vec<(Time, TokenId)>>,
    moves: usize,
    rng: Rng,
}

/// Serves the requests and returns how that went.
pub fn run(arrangement: &Arrangement, seed: u64, requests: &[(Time, Request)]) -> Figures {
    let settings = VirtualSettings::default();
    let facts = EngineFacts {
        max_model_len: settings.max_model_len,
        max_num_batched_tokens: settings.max_num_batched_tokens,
        max_num_seqs: settings.max_num_seqs,
        kv_tokens: u64::from(settings.kv_blocks * settings.block_size),
        kv_transfer: true,
    };
    let engines = arrangement.roles.len();
    let mut router = Router::new(&vec![facts; engines], &RouterSettings::default());
    router.arrange(arrangement).unwrap();
    let mut sim = Sim {
        now: Time(0),
        due: BinaryHeap::new(),
        scheduled: 0,
        router,
        engines: (0..engines).map(|_| Scheduler::new(&settings)).collect(),
        busy: vec![false; engines],
        loads: Vec::new(),
        settings,
        requests,
        tokens: BTreeMap::new(),
        moves: 0,
        rng: seeded(seed, "noise"),
    };
    for (scheduler, &tuning) in sim.engines.iter_mut().zip(&arrangement.tunings) {
        scheduler.tune(tuning);
    }
    for (i, (at, _)) in requests.iter().enumerate() {
        sim.schedule(*at, Due::Arrival(i));
    }
    while let Some(Reverse((at, _, due))) = sim.due.pop() {
        sim.now = at;
        sim.happens(due);
    }
    assert_eq!(sim.router.in_flight(), 0);
    assert!(sim.engines.iter().all(Scheduler::is_idle), "blocks are left in use");
    Figures::of(&sim)
}

impl Sim<'_> {
    fn schedule(&mut self, at: Time, due: Due) {
        self.scheduled += 1;
        self.due.push(Reverse((at, self.scheduled, due)));
    }

    fn happens(&mut self, due: Due) {
        match due {
            Due::Arrival(i) => self.feed(Event::Arrived(self.requests[i].1.clone())),
            Due::StepEnds(engine) => {
                let at = usize::from(engine);
                self.busy[at] = false;
                let (outputs, stats) = self.engines[at].finish_step();
                for LegOutput { leg, tokens, finish, .. } in &outputs {
                    let finish = finish.as_ref().map(|finish| (&finish.reason, finish.held));
                    self.feed(Event::Output { leg: *leg, tokens, finish });
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
                let bytes = Bytes(u64::from(source.tokens) * self.settings.kv_bytes_per_token);
                self.feed(Event::KvMoved { leg, copy, bytes, ok: kv.is_some() });
                self.kick(from);
                self.kick(usize::from(to));
            }
        }
    }

    fn feed(&mut self, event: Event<'_>) {
        let mut actions = Vec::new();
        self.router.handle(self.now, event, &mut actions);
        for action in actions {
            match action {
                Action::Submit { engine, leg } => {
                    self.engines[engine.index()].submit(leg);
                    self.kick(engine.index());
                }
                Action::Abort { engine, leg } => self.engines[engine.index()].abort(leg),
                Action::Release { engine, leg } => drop(self.engines[engine.index()].release(leg)),
                Action::Emit { request, tokens } => {
                    let now = self.now;
                    self.tokens.entry(request).or_default().extend(tokens.into_iter().map(|token| (now, token)));
                }
                Action::Finish { request, result } => assert_eq!(result, Ok(()), "{request}"),
            }
        }
    }

    /// Starts the engine's next step, if it is between steps and has something to do.
    fn kick(&mut self, at: usize) {
        if self.busy[at] {
            return;
        }
        let step = self.engines[at].begin_step();
        for load in self.engines[at].take_loads() {
            self.moves += 1;
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
}

/// What runs gave, pooled over all of them. Times in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    runs: f64,
    requests: f64,
    good: f64,
    tokens: f64,
    seconds: f64,
    moves: f64,
    short_ttft: Vec<f64>,
    long_ttft: Vec<f64>,
    itl: Vec<f64>,
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

impl Figures {
    fn of(sim: &Sim<'_>) -> Figures {
        let mut figures = Figures { runs: 1.0, requests: sim.requests.len() as f64, moves: sim.moves as f64, ..Figures::default() };
        let mut last = Time(0);
        for (arrived, request) in sim.requests {
            let tokens = &sim.tokens[&request.id];
            assert_eq!(tokens.len(), request.max_tokens as usize);
            let first = tokens[0].0.since(*arrived);
            let gaps: Vec<Micros> = tokens.windows(2).map(|pair| pair[1].0.since(pair[0].0)).collect();
            let worst = gaps.iter().copied().max().unwrap_or_default();
            let good = first <= request.objectives.ttft_us_max && worst <= request.objectives.itl_us_max;
            figures.good += f64::from(u8::from(good));
            figures.tokens += tokens.len() as f64;
            let ttft = if request.class == Class::Long { &mut figures.long_ttft } else { &mut figures.short_ttft };
            ttft.push(first.as_ms());
            figures.itl.extend(gaps.into_iter().map(Micros::as_ms));
            last = last.max(tokens[tokens.len() - 1].0);
        }
        figures.seconds = last.since(sim.requests[0].0).as_secs();
        figures
    }

    pub fn pooled(all: impl IntoIterator<Item = Figures>) -> Figures {
        all.into_iter().fold(Figures::default(), |mut sum, run| {
            sum.runs += run.runs;
            sum.requests += run.requests;
            sum.good += run.good;
            sum.tokens += run.tokens;
            sum.seconds += run.seconds;
            sum.moves += run.moves;
            sum.short_ttft.extend(run.short_ttft);
            sum.long_ttft.extend(run.long_ttft);
            sum.itl.extend(run.itl);
            sum
        })
    }

    pub fn output_tokens_per_s(&self) -> f64 {
        self.tokens / self.seconds
    }

    /// Share of requests within their objectives.
    pub fn goodput(&self) -> f64 {
        self.good / self.requests
    }

    pub fn short_ttft(&self, q: f64) -> f64 {
        quantile(&self.short_ttft, q)
    }

    pub fn long_ttft(&self, q: f64) -> f64 {
        quantile(&self.long_ttft, q)
    }

    pub fn itl(&self, q: f64) -> f64 {
        quantile(&self.itl, q)
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:4.0} tok/s | TTFT short {:4.0} {:4.0} long {:4.0} {:4.0} | ITL {:3.0} {:3.0} {:3.0} {:4.0} | goodput {:3.0} % | {:3.0} moves",
            self.output_tokens_per_s(),
            self.short_ttft(0.5),
            self.short_ttft(0.95),
            self.long_ttft(0.5),
            self.long_ttft(0.95),
            self.itl(0.5),
            self.itl(0.95),
            self.itl(0.99),
            self.itl(1.0),
            self.goodput() * 100.0,
            self.moves / self.runs,
        )
    }
}
