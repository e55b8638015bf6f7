//! `Router`: the life of a request, from its arrival to its end, and of the fleet that serves it.
//!
//! What is decided is decided by the parts: `policies` where a request goes, `admission` whether it starts, `migration` and `drain` which
//! ones leave their engine, `roles` and `auto` what the engines are for, `prefix` what their caches hold. Each owns what it knows, looks at
//! the fleet and at the requests in flight, and says what is to be done. Here it is done: this is where requests are sent, handed off and
//! ended, and where the parts hear of it.

use dualpool_types::records::{AdmissionState, RouterNote};
use dualpool_types::{
    Arrangement, ArrangementError, Bytes, EngineId, FinishReason, HeldKv, KvSource, Leg, LegId, Micros, Phase, PolicyKind,
    RejectReason, Request, RequestError, RequestId, Role, Time, TokenId,
};

use crate::admission::{Admission, Verdict, Waiting};
use crate::auto::{Auto, Change, FleetModel};
use crate::costs::{CopyTable, CostModel};
use crate::drain::{self, Drain, DrainError, DrainStep};
use crate::event::{Action, Event};
use crate::fleet::{Demand, EngineFacts, EngineState, Fleet, HandedOff, LegDemand};
use crate::flight::{Admitted, Detaching, Fetching, Flight, Flights, Journey, Stay};
use crate::migration::{Migration, UnderWay};
use crate::placement::{Ask, Placement};
use crate::policies::ActivePolicy;
use crate::prefix::{Chain, PrefixIndex, PrefixTracker, Tokens};
use crate::roles::{RoleChange, Roles};
use crate::settings::RouterSettings;

/// Decides where every request goes and follows it to its end.
///
/// Its memory is bounded: at most `router.max_in_flight` requests and aborted legs, each with its own tokens, three times
/// `router.admission.queue_max` requests that wait, and `router.prefix.blocks_max` blocks of prefixes.
pub struct Router {
    settings: RouterSettings,
    fleet: Fleet,
    flights: Flights,
    policy: ActivePolicy,
    prefix: PrefixTracker,
    admission: Admission,
    migration: Migration,
    drain: Drain,
    /// Live migrations, whether `migration` or `drain` began them.
    migrating: UnderWay,
    roles: Roles,
    /// While the policy is `auto`.
    auto: Option<Box<Auto>>,
}

/// What can be asked of it.
impl Router {
    /// A router over these engines, by `EngineId`. It serves by `least_load` until it is given an arrangement.
    pub fn new(fleet: &[EngineFacts], settings: &RouterSettings) -> Router {
        let engines = fleet.len();
        Router {
            fleet: Fleet::new(fleet, settings),
            flights: Flights::default(),
            policy: ActivePolicy::new(PolicyKind::LeastLoad, settings),
            prefix: PrefixTracker::new(&settings.prefix, engines),
            admission: Admission::new(settings, engines),
            migration: Migration::new(&settings.migration, engines),
            drain: Drain::new(&settings.migration, engines),
            migrating: UnderWay::new(settings.migration.in_flight_max, engines),
            roles: Roles::new(&settings.roles),
            auto: None,
            settings: settings.clone(),
        }
    }

    /// Takes what happened at `now`, and appends what is to be done about it.
    pub fn handle(&mut self, now: Time, event: Event<'_>, actions: &mut Vec<Action>) {
        self.fleet.now = self.fleet.now.max(now);
        match event {
            Event::Arrived(request) => self.arrived(now, request, actions),
            Event::Cancelled(request) => self.cancelled(request, actions),
            Event::Output { leg, tokens, cached_tokens, finish } => {
                self.observe_output(leg, tokens, cached_tokens, finish.map(|(reason, _)| reason));
                self.correct_cached(leg, cached_tokens);
                self.output(now, leg, tokens, finish, actions);
            }
            Event::KvMoved { leg, copy, bytes, ok } => self.kv_moved(leg, copy, bytes, ok, actions),
            Event::EngineStats { engine, stats } => self.fleet.reported(now, engine, stats),
            Event::DeviceSignals { engine, signals } => self.fleet.device_said(now, engine, signals),
            Event::EngineDied { engine, why } => self.engine_died(now, engine, why, actions),
            Event::KvLost { engine } => self.fleet.kv_lost(engine),
            Event::PrefixCacheReset { engine } => self.prefix.gone(engine),
            Event::CopyCost { from, to, lines } => self.fleet.copies.calibrate(from, to, lines),
            Event::Drain { engine } => self.drain.begin(&mut self.fleet.engines, engine),
            Event::Undrain { engine } => drain::undrain(&mut self.fleet.engines, engine),
            Event::Tick => self.tick(now, actions),
            Event::ShutDown => self.shut_down(actions),
        }
        // What an event tells may be older than what was decided since.
        self.open_gate(self.fleet.now, actions);
    }

    /// Requests that are not over, those that wait for admission included, and aborted legs that their engine has not ended yet.
    pub fn in_flight(&self) -> usize {
        self.flights.len() + self.admission.queue_len()
    }

    pub fn engines(&self) -> &[EngineState] {
        &self.fleet.engines
    }

    pub fn demand(&self, engine: EngineId) -> &Demand {
        &self.fleet.engine(engine).demand
    }

    pub fn role(&self, engine: EngineId) -> Role {
        self.fleet.engine(engine).role
    }

    pub fn costs(&self) -> &CostModel {
        &self.fleet.costs
    }

    pub fn copies(&self) -> &CopyTable {
        &self.fleet.copies
    }

    /// What the engines' prefix caches are believed to hold. None while they are not followed.
    pub fn prefixes(&self) -> Option<&PrefixIndex> {
        self.prefix.index()
    }

    /// How admission stands.
    pub fn admission(&self) -> AdmissionState {
        self.admission.state(self.fleet.prompt_tokens_in_flight())
    }

    /// Whether an engine may be drained; the last one that takes work may not.
    pub fn can_drain(&self, engine: EngineId) -> Result<(), DrainError> {
        drain::can_drain(&self.fleet.engines, engine)
    }

    /// Whether blocks held for this leg are, or will be, of use: the leg still runs, or another one is to fetch them.
    pub fn needs_blocks_of(&self, leg: LegId) -> bool {
        self.flights.need_blocks_of(leg)
    }

    /// Where a request that starts now goes, with nothing of its prompt in any cache. None only when no engine is alive.
    pub fn decide(&mut self, ask: &Ask) -> Option<Placement> {
        self.policy.place(self.fleet.view(&[]), ask)
    }

    /// Where a request with this prompt goes. `chain` is empty, and names afterwards what was asked for of the prompt; it comes from
    /// `PrefixIndex::chain`, or is the default one while caches are not followed.
    pub fn decide_for(&mut self, ask: &Ask, prompt: &[TokenId], chain: &mut Chain) -> Option<Placement> {
        let cached = self.prefix.look_up_prompt(chain, Tokens { prompt, outputs: &[] });
        self.policy.place(self.fleet.view(cached), ask)
    }

    /// Starts from what was learnt before, and of copies between single engines from their calibration. The router goes on fitting
    /// both to what it observes.
    pub fn set_costs(&mut self, costs: CostModel) {
        self.fleet.set_costs(costs);
    }
}

/// How the fleet comes to be served by an arrangement: all at once while it is idle, or with requests in flight.
///
/// A request that runs keeps the placement it was given. What an arrangement changes is where the next decision sends it: a leg that
/// ends for a hand-off asks the new policy where it decodes, and that may be any engine, as may what comes after an engine's death.
impl Router {
    /// Serves by this arrangement from now on. Only while nothing is in flight, so that all that is served is served by it; the
    /// caller tunes the engines.
    pub fn arrange(&mut self, arrangement: &Arrangement) -> Result<(), ArrangementError> {
        let in_flight = self.in_flight();
        if in_flight > 0 {
            return Err(ArrangementError::Busy { in_flight });
        }
        self.fleet.suits(arrangement)?;
        self.fleet.arrange(arrangement);
        self.serve_by(arrangement.policy);
        // What was watched and learnt under another arrangement says nothing about this one, and is no part of its account.
        let auto = arrangement.policy == PolicyKind::Auto;
        self.auto = auto.then(|| Box::new(Auto::new(&self.settings, arrangement, self.fleet.now)));
        self.roles.restart();
        self.admission = Admission::new(&self.settings, self.fleet.engines.len());
        Ok(())
    }

    /// The same with requests in flight: those stay where they are, new ones follow the arrangement, and what is watched goes on. Engines
    /// whose settings change are tuned by the actions.
    pub fn rearrange(&mut self, arrangement: &Arrangement, actions: &mut Vec<Action>) {
        self.fleet.rearrange(arrangement, actions);
        self.serve_by(arrangement.policy);
    }

    fn serve_by(&mut self, policy: PolicyKind) {
        self.policy.change(policy, &self.settings);
        self.prefix.follow(&self.fleet.engines, self.policy.wants_cached());
    }
}

/// What is due with time.
impl Router {
    fn tick(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.migrate(now, actions);
        self.fleet.tune_due(now, actions);
        self.balance_pools(now, actions);
        self.choose_arrangement(now, actions);
        self.mind_queue(now, actions);
    }

    /// Has requests leave engines that are being drained, and engines that are too slow for them.
    fn migrate(&mut self, now: Time, actions: &mut Vec<Action>) {
        let drains = self.fleet.engines.iter().any(|engine| engine.draining);
        if !drains && !self.migration.is_on() {
            return;
        }
        self.migrating.recount(&self.flights);
        for step in self.drain.tick(&self.fleet.view(&[]), &self.flights, &mut self.migrating) {
            match step {
                DrainStep::Drained(engine) => note(RouterNote::Drained { engine }, actions),
                DrainStep::Detach(request, detaching) => self.detach(request, detaching, actions),
            }
        }
        for (request, detaching) in self.migration.tick(now, &self.fleet.view(&[]), &self.flights, &mut self.migrating) {
            self.detach(request, detaching, actions);
        }
    }

    /// Asks the request's engine to end its leg with the next token.
    fn detach(&mut self, request: RequestId, detaching: Detaching, actions: &mut Vec<Action>) {
        let Some(Flight { stay, .. }) = self.flights.get_mut(request) else { return };
        stay.detaching = Some(detaching);
        actions.push(Action::Detach { engine: stay.engine, leg: stay.leg });
    }

    fn balance_pools(&mut self, now: Time, actions: &mut Vec<Action>) {
        // `auto` weighs the sizes of the pools itself.
        if self.auto.is_some() || !self.policy.kind().moves_kv() {
            return;
        }
        let Some(RoleChange { engine, to, why }) = self.roles.tick(now, &self.fleet.view(&[])) else { return };
        let from = self.fleet.change_role(now, engine, to, actions);
        note(RouterNote::RoleChanged { engine, from, to, why }, actions);
    }

    fn choose_arrangement(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Some(auto) = &mut self.auto else { return };
        let Fleet { engines, costs, copies, .. } = &self.fleet;
        let Some(change) = auto.tick(now, FleetModel { engines, costs, copies, settings: &self.settings }) else { return };
        let Change { from, to, forecasts, requests } = change;
        self.rearrange(&to, actions);
        let (forecast_from, forecast_to) = forecasts.unzip();
        note(RouterNote::Rearranged { from, to, forecast_from, forecast_to, requests }, actions);
    }

    /// Requests that wait and can no longer be in time are turned away, and a note is left of what has changed.
    fn mind_queue(&mut self, now: Time, actions: &mut Vec<Action>) {
        for (request, reason) in self.admission.late(now) {
            self.turn_away(&request, reason, actions);
        }
        if let Some(state) = self.admission.note(now, self.fleet.prompt_tokens_in_flight()) {
            note(RouterNote::Admission(state), actions);
        }
    }
}

/// From arrival to the first leg.
impl Router {
    fn arrived(&mut self, now: Time, request: Request, actions: &mut Vec<Action>) {
        self.roles.arrived(&request);
        if self.flights.contains(request.id) || self.admission.is_queued(request.id) {
            return; // Ids are unique; the request that has this one goes on.
        }
        if let Some(reason) = self.fleet.refusal(&request) {
            return self.turn_away(&request, reason, actions);
        }
        let mut journey = Journey::new(request);
        let cached = if self.admission.wants_cached() { self.prefix.look_up(journey.named()) } else { &[] };
        match self.admission.arrived(now, journey, self.flights.len(), &self.fleet.view(cached)) {
            Verdict::Starts(waiting) => self.begin(now, waiting, actions),
            Verdict::Waits => {}
            Verdict::IsTurnedAway(request, reason) => self.turn_away(&request, reason, actions),
        }
    }

    /// Lets in the requests that are next, as long as there is room. To be called after anything that may have made some.
    fn open_gate(&mut self, now: Time, actions: &mut Vec<Action>) {
        while let Some(waiting) = self.admission.next(now, self.flights.len(), &self.fleet.view(&[])) {
            self.begin(now, waiting, actions);
        }
    }

    fn begin(&mut self, now: Time, mut waiting: Waiting, actions: &mut Vec<Action>) {
        let Some(placement) = self.place(&mut waiting.journey) else {
            // Every policy falls back to any engine alive, so none is.
            return self.turn_away(waiting.request(), RejectReason::NoEngine, actions);
        };
        if self.admission.rejects_early() {
            let fleet = self.fleet.view(self.prefix.look_up(waiting.journey.named()));
            if let Some(reason) = self.admission.objection(now, &waiting, placement, &fleet) {
                return self.turn_away(waiting.request(), reason, actions);
            }
        }
        let mut journey = waiting.journey;
        if self.admission.watches_first_tokens() {
            let cached = self.prefix.cached_on(placement.engine(), journey.named());
            let prompt_tokens = journey.request.prompt_tokens() - cached;
            let in_flight = self.fleet.prompt_tokens_in_flight() + u64::from(prompt_tokens);
            journey.admitted = Some(Admitted { at: now, prompt_tokens, in_flight });
        }
        if let Some(auto) = &mut self.auto {
            auto.admitted(now, &journey.request);
        }
        self.start(now, journey, placement, actions);
    }

    fn turn_away(&mut self, request: &Request, reason: RejectReason, actions: &mut Vec<Action>) {
        self.admission.turned_away(request.priority, &reason);
        actions.push(Action::Finish { request: request.id, result: Err(RequestError::Rejected { reason }) });
    }

    /// Where the request goes from here, as it will be done: the policy's placement, but whole where it could not be split. None only when
    /// no engine is alive.
    fn place(&mut self, journey: &mut Journey) -> Option<Placement> {
        let ask = journey.ask();
        let fleet = self.fleet.view(self.prefix.look_up(journey.named()));
        match self.policy.place(fleet, &ask)? {
            // With one token to go there is nothing to decode elsewhere, and without another engine to take the KV no elsewhere. What would
            // get other tokens there stays.
            Placement::Split(engine) if journey.remaining() <= 1 || !journey.can_change_engine() || !fleet.can_hand_off(engine) => {
                Some(Placement::Whole(engine))
            }
            placement => Some(placement),
        }
    }

    /// Sends the request where it was just placed.
    fn start(&mut self, now: Time, journey: Journey, placement: Placement, actions: &mut Vec<Action>) {
        self.explain(&journey, None, placement, actions);
        self.send(now, journey, placement.engine(), placement.is_split(), None, actions);
    }

    /// Notes what the decision just made was made of, where that is to be explained. `from`: the engine that holds the request's KV.
    fn explain(&mut self, journey: &Journey, from: Option<EngineId>, placement: Placement, actions: &mut Vec<Action>) {
        if let Some(placed) = self.policy.explained(journey.request.id, &journey.ask(), from, placement) {
            note(placed, actions);
        }
    }

    fn send(
        &mut self,
        now: Time,
        mut journey: Journey,
        engine: EngineId,
        split: bool,
        kv_source: Option<KvSource>,
        actions: &mut Vec<Action>,
    ) {
        let ask = journey.ask();
        let id = LegId { request: journey.request.id, leg: journey.legs };
        journey.legs += 1;
        let leg = Leg {
            id,
            prompt: journey.prompt(),
            max_tokens: if split { 1 } else { ask.outputs },
            ignore_eos: journey.request.ignore_eos,
            sampling: journey.request.sampling,
            kv_source,
            hold: split,
        };
        // A leg that fetches gets from elsewhere what its engine has not cached; else that is computed.
        let cached = self.prefix.cached_on(engine, journey.named());
        let believed = if kv_source.is_none() { cached } else { 0 };
        let prefill = ask.prompt_tokens - kv_source.map_or(believed, |source| source.tokens.min(ask.prompt_tokens));
        let at_once = self.fleet.engine(engine).has_room(ask.prompt_tokens + leg.max_tokens);
        let stay = Stay {
            leg: id,
            engine,
            phase: if kv_source.is_some() { Phase::Handoff } else { Phase::Prefill },
            split,
            detaching: None,
            arriving: false,
            left: leg.max_tokens,
            demand: LegDemand {
                prefill,
                long: prefill >= self.fleet.long_prompt_tokens_min,
                context: ask.prompt_tokens,
                outputs: leg.max_tokens,
                started: false,
                objectives: ask.objectives,
            },
            believed,
            since: now,
            decodes_since: None,
            last: now,
            fetching: kv_source.map(|source| Fetching { from: source.engine, tokens: source.tokens, at_once, copied: None }),
        };
        self.fleet.engine_mut(engine).demand.enter(&stay.demand);
        self.flights.insert(Flight { journey, stay, held: kv_source });
        actions.push(Action::Submit { engine, leg });
    }
}

/// From leg to leg.
impl Router {
    /// Lets `auto` see what comes out, before it counts.
    fn observe_output(&mut self, leg: LegId, tokens: &[TokenId], cached: Option<u32>, finish: Option<&FinishReason>) {
        if let Some(auto) = &mut self.auto
            && let Some(flight) = self.flights.on_leg(leg)
        {
            auto.output(flight, tokens.len(), cached, finish);
        }
    }

    /// With a leg's first output its engine says how many prompt tokens it found cached. What it computed instead, or need not compute
    /// after all, is put right before the leg counts as started.
    fn correct_cached(&mut self, leg: LegId, cached: Option<u32>) {
        let (Some(_), Some(cached)) = (self.prefix.index(), cached) else { return };
        let Some(Flight { journey, stay, .. }) = self.flights.on_leg_mut(leg) else { return };
        // Tokens that were fetched from another engine count as cached, and say nothing of this engine's cache.
        if stay.demand.started || stay.fetching.is_some() {
            return;
        }
        let cached = cached.min(stay.demand.context);
        if cached < stay.believed {
            self.prefix.missing_from(stay.engine, &journey.chain, cached);
        }
        self.fleet.recount(stay.engine, &mut stay.demand, cached);
    }

    fn output(
        &mut self,
        now: Time,
        leg: LegId,
        tokens: &[TokenId],
        finish: Option<(&FinishReason, Option<HeldKv>)>,
        actions: &mut Vec<Action>,
    ) {
        if self.flights.is_ending(leg) {
            if finish.is_some() {
                self.flights.ended(leg);
            }
            return;
        }
        let Some(flight) = self.flights.on_leg(leg) else {
            return; // Late words of a leg that is over.
        };
        // Never more than was asked for, whatever the engine says.
        let tokens = &tokens[..tokens.len().min(flight.stay.left as usize)];
        if !tokens.is_empty() {
            actions.push(Action::Emit { request: leg.request, tokens: tokens.to_vec() });
            self.progressed(now, leg.request, tokens, actions);
        }
        if let Some((reason, held)) = finish {
            self.leg_ended(now, leg, reason, held, actions);
        }
    }

    /// The request's leg gave tokens.
    fn progressed(&mut self, now: Time, request: RequestId, tokens: &[TokenId], actions: &mut Vec<Action>) {
        let Router { fleet, flights, prefix, admission, .. } = self;
        let Some(Flight { journey, stay, held }) = flights.get_mut(request) else { return };
        let admitted = journey.admitted.take().filter(|_| journey.legs == 1);
        journey.tokens.extend_from_slice(tokens);
        let engine = &mut fleet.engines[stay.engine.index()];
        let (first, prefill, given) = (!stay.demand.started, stay.demand.prefill, tokens.len() as u32);
        engine.demand.leave(&stay.demand);
        stay.gave(given);
        engine.demand.enter(&stay.demand);
        let gap = now.since(std::mem::replace(&mut stay.last, now));
        if !first {
            return engine.signals.more_tokens(now, gap, given);
        }
        let times = stay.fetching.is_none().then(|| (now.since(stay.since), fleet.costs.alone(prefill.into())));
        engine.signals.first_token(now, times);
        engine.started(prefill);
        prefix.used(stay.engine, journey.named(), stay.demand.context - given);
        stay.arriving = false;
        stay.phase = if stay.split { Phase::Handoff } else { Phase::Decode };
        if !stay.split {
            stay.decodes_since = Some(now);
            let at_most = f64::from(stay.left) * fleet.costs.step(0.0, engine.demand.running as f64);
            admission.decode_began(stay.engine, now, at_most);
        }
        // The leg has its KV, fetched or computed: the blocks it came from are not needed any more.
        release(held.take(), actions);
        if let Some(Fetching { from, tokens, at_once, copied: Some((copy, bytes)) }) = stay.fetching {
            let took = at_once.then(|| now.since(stay.since));
            fleet.handed_off(HandedOff { from, to: stay.engine, tokens, copy, bytes, took });
        }
        if let Some(admitted) = admitted {
            admission.first_token(now, admitted, journey.request.objectives, &fleet.costs);
        }
    }

    fn leg_ended(&mut self, now: Time, leg: LegId, reason: &FinishReason, held: Option<HeldKv>, actions: &mut Vec<Action>) {
        let Some(flight) = self.take_off(leg.request, false) else { return };
        let Flight { journey, stay, held: source } = flight;
        let Stay { engine, phase, .. } = stay;
        release(source, actions);
        let why = match reason {
            FinishReason::Length if journey.remaining() == 0 => None,
            FinishReason::Stop => None,
            FinishReason::Length if (stay.split && stay.left == 0) || stay.detaching.is_some() => {
                let held = held.map(|HeldKv { tokens }| KvSource { engine, leg, tokens });
                return self.hand_off(now, journey, held, &stay, actions);
            }
            FinishReason::Length => Some(format!("it ended the leg {} tokens early", stay.left)),
            FinishReason::Aborted => Some("it aborted the leg unasked".to_owned()),
            FinishReason::Error(why) => Some(why.clone()),
        };
        if stay.split || stay.detaching.is_some() {
            // Also when the engine does not say that it holds blocks: one that aborts or fails a leg never does.
            actions.push(Action::Release { engine, leg });
        }
        let result = why.map_or(Ok(()), |why| Err(RequestError::Engine { engine, phase, why }));
        actions.push(Action::Finish { request: leg.request, result });
    }

    /// The leg is over, and its engine holds the blocks: on to an engine that decodes, the one that was chosen when the leg was detached, or
    /// else by the signals of this moment. Where no engine can take the blocks, the request stays.
    fn hand_off(&mut self, now: Time, mut journey: Journey, held: Option<KvSource>, stay: &Stay, actions: &mut Vec<Action>) {
        let (from, request) = (stay.engine, journey.request.id);
        let chosen = stay.detaching.and_then(|detaching| detaching.to).filter(|to| self.fleet.engine(*to).takes_kv());
        let to = match chosen {
            _ if !self.fleet.engine(from).moves_kv() => None,
            None => self.choose_decoder(&mut journey, from, actions),
            chosen => chosen,
        };
        let engine = to.unwrap_or(from);
        // An engine does not fetch from itself; what its prefix cache kept serves instead.
        let (kv_source, unused) = if engine == from { (None, held) } else { (held, None) };
        release(unused, actions);
        if stay.detaching.is_some() {
            // Also where it comes back, so that it is not detached again at once.
            (journey.migrations, journey.migrated_at) = (journey.migrations + 1, Some(now));
        }
        let migrates = stay.detaching.filter(|_| engine != from);
        if let Some(Detaching { why, .. }) = migrates {
            let tokens = kv_source.map_or(0, |source| source.tokens);
            note(RouterNote::Migrated { request, from, to: engine, tokens, why }, actions);
        }
        self.send(now, journey, engine, false, kv_source, actions);
        if let Some(flight) = self.flights.get_mut(request) {
            flight.stay.arriving = migrates.is_some();
        }
    }

    /// Where a request whose KV is on engine `from` decodes.
    fn choose_decoder(&mut self, journey: &mut Journey, from: EngineId, actions: &mut Vec<Action>) -> Option<EngineId> {
        let ask = journey.ask();
        let fleet = self.fleet.view(self.prefix.look_up(journey.named()));
        let engine = self.policy.decode_on(fleet, &ask, from)?;
        self.explain(journey, Some(from), Placement::Whole(engine), actions);
        Some(engine)
    }

    fn kv_moved(&mut self, leg: LegId, copy: Micros, bytes: Bytes, ok: bool, actions: &mut Vec<Action>) {
        let Some(Flight { journey, stay, held }) = self.flights.on_leg_mut(leg) else { return };
        if ok {
            // The mover has released the source.
            *held = None;
            if let Some(fetching) = &mut stay.fetching {
                fetching.copied = Some((copy, bytes));
            }
            return;
        }
        release(held.take(), actions);
        stay.fetching = None;
        if !stay.demand.started {
            stay.phase = Phase::Prefill;
            stay.believed = self.prefix.cached_on(stay.engine, journey.named());
            self.fleet.recount(stay.engine, &mut stay.demand, stay.believed);
        }
    }

    /// Takes the request out of the books, and its leg off its engine. `cut_off`: the leg would have gone on.
    fn take_off(&mut self, request: RequestId, cut_off: bool) -> Option<Flight> {
        let mut flight = self.flights.remove(request)?;
        let Flight { journey, stay, .. } = &mut flight;
        let engine = &mut self.fleet.engines[stay.engine.index()];
        if stay.demand.started && engine.alive {
            // Its engine has the KV of all tokens but the last one, which nothing has been computed from.
            let context = journey.ask().prompt_tokens;
            self.prefix.used(stay.engine, journey.named(), context - 1);
        }
        engine.left(&stay.demand);
        if let Some(began) = stay.decodes_since {
            let cut_off = cut_off || stay.detaching.is_some();
            self.admission.decode_ended(stay.engine, began, self.fleet.now, cut_off);
        }
        Some(flight)
    }
}

/// What ends a request, or its stay, before its time.
impl Router {
    fn cancelled(&mut self, request: RequestId, actions: &mut Vec<Action>) {
        if self.admission.leaves(request) {
            let result = Err(RequestError::Cancelled { phase: Phase::Admission });
            return actions.push(Action::Finish { request, result });
        }
        self.cut_short(request, |phase| RequestError::Cancelled { phase }, actions);
    }

    fn shut_down(&mut self, actions: &mut Vec<Action>) {
        self.clear_queue(|phase| RequestError::ShutDown { phase }, actions);
        for request in self.flights.requests() {
            self.cut_short(request, |phase| RequestError::ShutDown { phase }, actions);
        }
    }

    /// Every request that waits ends with this error.
    fn clear_queue(&mut self, error: impl Fn(Phase) -> RequestError, actions: &mut Vec<Action>) {
        while let Some(request) = self.admission.pop() {
            actions.push(Action::Finish { request, result: Err(error(Phase::Admission)) });
        }
    }

    fn cut_short(&mut self, request: RequestId, error: impl FnOnce(Phase) -> RequestError, actions: &mut Vec<Action>) {
        let Some(Flight { stay, held, .. }) = self.take_off(request, true) else { return };
        let Stay { leg, engine, phase, split, detaching, .. } = stay;
        self.flights.aborted(leg, engine);
        actions.push(Action::Abort { engine, leg });
        if split || detaching.is_some() {
            // The leg may be over already and its blocks held, and an engine's answer to an abort does not say so.
            actions.push(Action::Release { engine, leg });
        }
        release(held, actions);
        actions.push(Action::Finish { request, result: Err(error(phase)) });
    }

    fn engine_died(&mut self, now: Time, dead: EngineId, why: &str, actions: &mut Vec<Action>) {
        self.fleet.engine_mut(dead).died();
        self.prefix.gone(dead);
        for engine in drain::keep_one_at_work(&mut self.fleet.engines) {
            let why = "no other engine is left to take requests".to_owned();
            note(RouterNote::DrainEnded { engine, why }, actions);
        }
        for request in self.flights.engine_died(dead) {
            self.resume(now, request, why, actions);
        }
        if !self.fleet.has_engine_alive() {
            self.clear_queue(|_| RequestError::Rejected { reason: RejectReason::NoEngine }, actions);
        }
    }

    /// The request's engine died: it goes on elsewhere, from wherever it stands.
    fn resume(&mut self, now: Time, request: RequestId, why: &str, actions: &mut Vec<Action>) {
        let Some(Flight { mut journey, stay, held }) = self.take_off(request, true) else { return };
        release(held, actions);
        let died = |why: String| Err(RequestError::EngineDied { engine: stay.engine, phase: stay.phase, why });
        if let Err(stays) = journey.request.sampling.continues()
            && !journey.tokens.is_empty()
        {
            // To begin anew would take back tokens that the client has.
            let result = died(format!("{why}; the request cannot go on elsewhere: {stays}"));
            return actions.push(Action::Finish { request, result });
        }
        journey.resumes += 1;
        let placement = if journey.resumes > self.settings.resumes_max { None } else { self.place(&mut journey) };
        match placement {
            Some(placement) => self.start(now, journey, placement, actions),
            None => actions.push(Action::Finish { request, result: died(why.to_owned()) }),
        }
    }
}

fn note(note: RouterNote, actions: &mut Vec<Action>) {
    actions.push(Action::Note(Box::new(note)));
}

fn release(source: Option<KvSource>, actions: &mut Vec<Action>) {
    actions.extend(source.map(|KvSource { engine, leg, .. }| Action::Release { engine, leg }));
}
