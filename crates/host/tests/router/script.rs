//! A stage for the router: a host whose engines do what the test says, with a mover and clients. It carries out every action, and checks
//! with each of them what must always hold.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use dualpool_host::{Backend, Entry, Fold, Host, Requests, Run};
use dualpool_router::{Action, EngineFacts, Event, Router, RouterSettings};
use dualpool_types::records::{Outcome, RequestRecord};
use dualpool_types::{
    Arrangement, Bytes, Class, EngineId, EngineStats, FinishReason, HeldKv, KvSource, Leg, LegId, Micros, Objectives, PolicyKind,
    Priority, Request, RequestError, RequestId, Sampling, Time, TokenId, Tuning,
};

pub const A: EngineId = EngineId(0);
pub const B: EngineId = EngineId(1);

pub const FACTS: EngineFacts = EngineFacts {
    max_model_len: 4096,
    max_num_batched_tokens: 2048,
    max_num_seqs: 64,
    kv_tokens: 32_768,
    kv_transfer: true,
    prefix_block_tokens: 16,
    cost_per_hour: None,
};

pub const OBJECTIVES: Objectives = Objectives { ttft_us_max: Micros(3_000_000), itl_us_max: Micros(200_000) };

/// A leg on an engine.
#[derive(Clone, Debug)]
pub struct Live {
    pub engine: EngineId,
    pub leg: Leg,
    pub given: Vec<TokenId>,
    pub aborted: bool,
    /// The copy that it waits for.
    pub waits: Option<KvSource>,
}

/// The engines and the mover between them.
pub struct Script {
    pub now: Time,
    pub live: BTreeMap<LegId, Live>,
    pub held: BTreeSet<(EngineId, LegId)>,
    /// Released so far. A hold that begins after its release ends at once.
    pub released: BTreeSet<(EngineId, LegId)>,
    pub dead: BTreeSet<EngineId>,
    /// Engines without a link to the mover.
    pub cut: BTreeSet<EngineId>,
    /// Every leg ever sent.
    pub sent: Vec<LegId>,
    /// What engines say of cached prompt tokens with a leg's first tokens.
    pub cached_tokens: Option<u32>,
}

/// What clients asked for and what they got, and all that the router asked for.
#[derive(Default)]
pub struct Books {
    requests: Requests,
    pub asked: BTreeMap<RequestId, Request>,
    /// Of the requests that are over.
    pub ended: BTreeMap<RequestId, RequestRecord>,
    pub actions: Vec<Action>,
}

pub struct Stage {
    pub host: Host<Script, Books>,
}

/// The token that follows these.
pub fn next_token(before: &[TokenId]) -> TokenId {
    before.iter().fold(17, |hash: TokenId, &token| (hash ^ token).wrapping_mul(0x0100_0193).rotate_left(7))
}

pub fn prompt(request: u64, tokens: usize) -> Vec<TokenId> {
    (0..tokens as TokenId).map(|i| i.wrapping_mul(31) + request as TokenId).collect()
}

pub fn split(policy: PolicyKind, prefill: &[EngineId], decode: &[EngineId]) -> Arrangement {
    let tuning = Tuning::default();
    let engines = prefill.len() + decode.len();
    Arrangement::pools("test", policy, prefill, decode, engines, tuning, tuning, 256).unwrap()
}

impl Backend for Script {
    fn now(&self) -> Time {
        self.now
    }

    fn act(&mut self, _: Time, action: Action, _: &Router) {
        match action {
            Action::Submit { engine, leg } => {
                assert!(!self.dead.contains(&engine), "{} sent to the dead {engine}", leg.id);
                assert!(!self.sent.contains(&leg.id), "{} sent twice", leg.id);
                assert!(leg.max_tokens > 0 && leg.kv_source.is_none_or(|load| load.engine != engine));
                let moves = leg.hold || leg.kv_source.is_some();
                let linked = |engine: &EngineId| !self.cut.contains(engine);
                assert!(!moves || linked(&engine), "{} is to move, and {engine} has no link", leg.id);
                assert!(
                    leg.kv_source.is_none_or(|load| linked(&load.engine)),
                    "{} is to load from an engine without a link",
                    leg.id
                );
                self.sent.push(leg.id);
                let waits = leg.kv_source;
                self.live.insert(leg.id, Live { engine, leg, given: Vec::new(), aborted: false, waits });
            }
            Action::Abort { leg, .. } => {
                if let Some(live) = self.live.get_mut(&leg) {
                    live.aborted = true;
                }
            }
            Action::Release { engine, leg } => {
                self.held.remove(&(engine, leg));
                self.released.insert((engine, leg));
            }
            Action::Detach { engine, leg } => {
                // The engine may be ahead of the router: the leg is over, and the word of it under way.
                if let Some(live) = self.live.get_mut(&leg) {
                    assert_eq!(live.engine, engine);
                    assert!(!live.given.is_empty(), "{leg} is detached before it decodes");
                    live.leg.max_tokens = live.leg.max_tokens.min(live.given.len() as u32 + 1);
                    live.leg.hold = true;
                }
            }
            Action::Tune { .. } | Action::Note(_) | Action::Emit { .. } | Action::Finish { .. } => {}
        }
    }
}

impl Fold for Books {
    fn entry(&mut self, at: Time, entry: &Entry<'_>) {
        if let Entry::Event(Event::Arrived(request)) = entry {
            self.asked.insert(request.id, request.clone());
        }
        if let Entry::Action(action, _) = *entry {
            self.actions.push(action.clone());
            let over = |request: &RequestId| self.ended.contains_key(request);
            match action {
                Action::Submit { leg, .. } => assert!(!over(&leg.id.request), "{} sent after the end", leg.id),
                Action::Emit { request, .. } => assert!(!over(request), "{request} got tokens after its end"),
                Action::Finish { request, .. } => assert!(!over(request), "{request} ended twice"),
                _ => {}
            }
        }
        let ended = self.requests.entry(at, entry, &Run::default());
        self.ended.extend(ended.map(|record| (record.id, record)));
    }
}

/// A stage is its script, with a router.
impl Deref for Stage {
    type Target = Script;

    fn deref(&self) -> &Script {
        &self.host.backend
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Script {
        &mut self.host.backend
    }
}

impl Stage {
    pub fn new(engines: usize, arrangement: &Arrangement) -> Stage {
        Stage::with(engines, arrangement, &RouterSettings::default())
    }

    pub fn with(engines: usize, arrangement: &Arrangement, settings: &RouterSettings) -> Stage {
        Stage::of(&vec![FACTS; engines], arrangement, settings)
    }

    pub fn of(engines: &[EngineFacts], arrangement: &Arrangement, settings: &RouterSettings) -> Stage {
        let script = Script {
            now: Time(1_000_000),
            live: BTreeMap::new(),
            held: BTreeSet::new(),
            released: BTreeSet::new(),
            dead: BTreeSet::new(),
            cut: BTreeSet::new(),
            sent: Vec::new(),
            cached_tokens: None,
        };
        let mut host = Host::new(engines, settings, script, Books::default());
        host.arrange(arrangement).unwrap();
        Stage { host }
    }

    pub fn pair(policy: PolicyKind) -> Stage {
        Stage::new(2, &split(policy, &[A], &[B]))
    }

    pub fn router(&self) -> &Router {
        self.host.router()
    }

    /// Everything that the router asked for so far.
    pub fn actions(&self) -> &[Action] {
        &self.host.folds.actions
    }

    /// How the request ended, if it did.
    pub fn result(&self, request: RequestId) -> Option<Result<(), RequestError>> {
        let record = self.host.folds.ended.get(&request)?;
        Some(match &record.outcome {
            Outcome::Done => Ok(()),
            Outcome::Failed { error } => Err(error.clone()),
        })
    }

    /// `check_over` asks nothing of the requests so far: their tokens were cut off.
    pub fn forget_requests(&mut self) {
        self.host.folds.asked.clear();
    }

    /// The same of one request.
    pub fn forget(&mut self, request: RequestId) {
        self.host.folds.asked.remove(&request);
    }

    /// Feeds an event, carries out what it causes, and returns that.
    pub fn feed(&mut self, event: Event<'_>) -> Vec<Action> {
        self.now = self.now.plus(Micros(1_000));
        let before = self.actions().len();
        self.host.feed(event);
        self.actions()[before..].to_vec()
    }

    /// Changes the arrangement with whatever is in flight.
    pub fn rearrange(&mut self, arrangement: &Arrangement) -> Vec<Action> {
        let before = self.actions().len();
        self.host.rearrange(arrangement);
        self.actions()[before..].to_vec()
    }

    pub fn arrive(&mut self, request: u64, prompt_tokens: usize, max_tokens: u32) -> Vec<Action> {
        self.arrive_with(request, prompt_tokens, max_tokens, OBJECTIVES)
    }

    pub fn arrive_with(&mut self, request: u64, prompt_tokens: usize, max_tokens: u32, objectives: Objectives) -> Vec<Action> {
        self.arrive_as(Priority::Normal, request, prompt_tokens, max_tokens, objectives)
    }

    pub fn arrive_as(
        &mut self,
        priority: Priority,
        request: u64,
        prompt_tokens: usize,
        max_tokens: u32,
        objectives: Objectives,
    ) -> Vec<Action> {
        self.arrive_saying(priority, request, prompt(request, prompt_tokens), max_tokens, objectives)
    }

    pub fn arrive_saying(
        &mut self,
        priority: Priority,
        request: u64,
        prompt: Vec<TokenId>,
        max_tokens: u32,
        objectives: Objectives,
    ) -> Vec<Action> {
        self.arrives(Request {
            id: RequestId(request),
            prompt: prompt.into(),
            max_tokens,
            ignore_eos: true,
            sampling: Sampling::default(),
            class: Class::Short,
            priority,
            objectives,
        })
    }

    pub fn arrive_sampled(
        &mut self,
        request: u64,
        prompt_tokens: usize,
        max_tokens: u32,
        objectives: Objectives,
        sampling: Sampling,
    ) -> Vec<Action> {
        self.arrives(Request {
            id: RequestId(request),
            prompt: prompt(request, prompt_tokens).into(),
            max_tokens,
            ignore_eos: true,
            sampling,
            class: Class::Short,
            priority: Priority::Normal,
            objectives,
        })
    }

    fn arrives(&mut self, request: Request) -> Vec<Action> {
        self.feed(Event::Arrived(request))
    }

    /// Time passes, in ticks.
    pub fn wait(&mut self, ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        for _ in 0..ms.div_ceil(50) {
            self.now = self.now.plus(Micros(49_000));
            actions.extend(self.feed(Event::Tick));
        }
        actions
    }

    pub fn cancel(&mut self, request: u64) -> Vec<Action> {
        self.feed(Event::Cancelled(RequestId(request)))
    }

    /// The leg gives this many tokens, and ends with the last one it was asked for.
    pub fn give(&mut self, leg: LegId, count: usize) -> Vec<Action> {
        let script = &mut self.host.backend;
        let Some(live) = script.live.get_mut(&leg) else { panic!("{leg} is on no engine") };
        let cached_tokens = if live.given.is_empty() { script.cached_tokens } else { None };
        let mut tokens = Vec::new();
        for _ in 0..count.min(live.leg.max_tokens as usize - live.given.len()) {
            let before: Vec<TokenId> = live.leg.prompt.iter().chain(&live.given).copied().collect();
            live.given.push(next_token(&before));
            tokens.extend(live.given.last());
        }
        if live.given.len() == live.leg.max_tokens as usize {
            return self.end_with(leg, &tokens, cached_tokens, &FinishReason::Length);
        }
        self.feed(Event::Output { leg, tokens: &tokens, cached_tokens, finish: None })
    }

    /// The leg gives these tokens and ends; it leaves its KV behind if it was told to. An engine that aborts or fails a leg does not
    /// say so: the leg may have ended just before, and then the word of that end is dropped.
    pub fn end(&mut self, leg: LegId, tokens: &[TokenId], reason: &FinishReason) -> Vec<Action> {
        self.end_with(leg, tokens, None, reason)
    }

    fn end_with(&mut self, leg: LegId, tokens: &[TokenId], cached_tokens: Option<u32>, reason: &FinishReason) -> Vec<Action> {
        let Some(live) = self.live.remove(&leg) else { panic!("{leg} is on no engine") };
        let holds = live.leg.hold && live.waits.is_none() && !self.cut.contains(&live.engine);
        if holds && !self.released.contains(&(live.engine, leg)) {
            self.held.insert((live.engine, leg));
        }
        let says = holds && matches!(reason, FinishReason::Length | FinishReason::Stop);
        // Of the last token there is no KV.
        let held = says.then_some(HeldKv { tokens: (live.leg.prompt.len() + live.given.len()).saturating_sub(1) as u32 });
        self.feed(Event::Output { leg, tokens, cached_tokens, finish: Some((reason, held)) })
    }

    /// The copy that the leg waits for is over.
    pub fn moved(&mut self, leg: LegId, ok: bool) -> Vec<Action> {
        if let Some(source) = self.live.get_mut(&leg).and_then(|live| live.waits.take())
            && ok
        {
            assert!(self.held.remove(&(source.engine, source.leg)), "{leg} fetched KV that no engine held");
        }
        self.feed(Event::KvMoved { leg, copy: Micros(2_000), bytes: Bytes(1), ok })
    }

    pub fn die(&mut self, engine: EngineId) -> Vec<Action> {
        self.dead.insert(engine);
        self.live.retain(|_, live| live.engine != engine);
        self.held.retain(|&(holder, _)| holder != engine);
        self.feed(Event::EngineDied { engine, why: "killed" })
    }

    /// The engine loses its link to the mover, and lets go of what it holds.
    pub fn cut(&mut self, engine: EngineId) {
        self.cut.insert(engine);
        self.held.retain(|&(holder, _)| holder != engine);
        self.feed(Event::KvLost { engine });
    }

    pub fn drain(&mut self, engine: EngineId) {
        self.router().can_drain(engine).unwrap();
        self.feed(Event::Drain { engine });
    }

    /// A step of the engine took so many times what the cost model says, which is not to be blamed on the fleet's costs.
    pub fn slowed(&mut self, engine: EngineId, times: f64) {
        let costs = *self.router().costs();
        let report = |steps| EngineStats { running: 1, steps, output_tokens: steps, ..EngineStats::default() };
        self.stats(engine, report(0));
        let took = Micros((costs.step(0.0, 1.0) * times) as u64);
        // Each report comes a moment after the one before it.
        self.now = self.now.plus(took - Micros(1_000));
        self.stats(engine, report(1));
        self.host.set_costs(costs);
    }

    pub fn stats(&mut self, engine: EngineId, stats: EngineStats) {
        self.feed(Event::EngineStats { engine, stats });
    }

    /// The leg that the request is on.
    pub fn leg_of(&self, request: u64) -> LegId {
        let of = |live: &&Live| live.leg.id.request == RequestId(request) && !live.aborted;
        self.live.values().find(of).map(|live| live.leg.id).unwrap_or_else(|| panic!("request-{request} is on no engine"))
    }

    pub fn engine_of(&self, request: u64) -> EngineId {
        self.live[&self.leg_of(request)].engine
    }

    /// What the client must have got in the end.
    pub fn expected(&self, request: RequestId) -> Vec<TokenId> {
        let Request { prompt, max_tokens, .. } = &self.host.folds.asked[&request];
        let mut all = prompt.to_vec();
        for _ in 0..*max_tokens {
            all.push(next_token(&all));
        }
        all.split_off(prompt.len())
    }

    /// Nothing is left over, and every client has what it should have.
    pub fn check_over(&self) {
        assert!(self.live.is_empty(), "legs left: {:?}", self.live.keys());
        assert!(self.held.is_empty(), "held for ever: {:?}", self.held);
        assert_eq!(self.router().in_flight(), 0);
        for engine in self.router().engines() {
            assert_eq!(engine.demand, Default::default(), "{} still has load", engine.id);
        }
        for (&request, asked) in &self.host.folds.asked {
            let record = self.host.folds.ended.get(&request).unwrap_or_else(|| panic!("{request} never ended"));
            if asked.max_tokens > 0 {
                let expected = self.expected(request);
                assert!(expected.starts_with(&record.tokens), "{request} got other tokens");
                assert!(record.outcome != Outcome::Done || record.tokens.len() == expected.len(), "{request} lost tokens");
            }
        }
    }
}
