//! The life of a request: one function per thing that can happen to it.

use dualpool_types::records::RouterNote;
use dualpool_types::{
    Bytes, EngineId, FinishReason, HeldKv, KvSource, Leg, LegId, Micros, Phase, RejectReason, Request, RequestError, RequestId,
    Time, TokenId,
};

use super::fleet::LegDemand;
use super::flight::{Flight, Journey, Loading, Parting, Stay};
use super::policy::Placement;
use super::{Action, EngineState, Router, locality};

impl Router {
    pub(super) fn arrived(&mut self, now: Time, request: Request, actions: &mut Vec<Action>) {
        let id = request.id;
        if self.flights.contains_key(&id) || self.is_queued(id) {
            return; // Ids are unique; the request that has this one goes on.
        }
        if let Some(reason) = self.refusal(&request) {
            let result = Err(RequestError::Rejected { reason });
            return actions.push(Action::Finish { request: id, result });
        }
        self.admit(now, request, actions);
    }

    pub(super) fn cancelled(&mut self, request: RequestId, actions: &mut Vec<Action>) {
        let error = |phase| RequestError::Cancelled { phase };
        if !self.leaves_queue(request, error, actions) {
            self.cut_short(request, error, actions);
        }
    }

    pub(super) fn shut_down(&mut self, actions: &mut Vec<Action>) {
        self.clear_queue(|phase| RequestError::ShutDown { phase }, actions);
        let mut requests: Vec<RequestId> = self.flights.keys().copied().collect();
        requests.sort_unstable();
        for request in requests {
            self.cut_short(request, |phase| RequestError::ShutDown { phase }, actions);
        }
    }

    fn cut_short(&mut self, request: RequestId, error: impl FnOnce(Phase) -> RequestError, actions: &mut Vec<Action>) {
        let Some(flight) = self.take_off(request, true) else { return };
        let Stay { leg, engine, phase, split, parting, .. } = flight.stay;
        self.ending.insert(leg, engine);
        actions.push(Action::Abort { engine, leg });
        if split || parting.is_some() {
            // The leg may be over already and its blocks held, and an engine's answer to an abort does not say so.
            actions.push(Action::Release { engine, leg });
        }
        release(flight.held, actions);
        actions.push(Action::Finish { request, result: Err(error(phase)) });
    }

    pub(super) fn output(
        &mut self,
        now: Time,
        leg: LegId,
        tokens: &[TokenId],
        finish: Option<(&FinishReason, Option<HeldKv>)>,
        actions: &mut Vec<Action>,
    ) {
        if self.ending.contains_key(&leg) {
            if finish.is_some() {
                self.ending.remove(&leg);
            }
            return;
        }
        let Some(flight) = self.flights.get(&leg.request).filter(|flight| flight.stay.leg == leg) else {
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
        let Some(Flight { journey, stay, held }) = self.flights.get_mut(&request) else { return };
        let admitted = journey.admitted.take().filter(|_| journey.legs == 1);
        let objectives = journey.request.objectives;
        journey.tokens.extend_from_slice(tokens);
        let engine = &mut self.engines[stay.engine.index()];
        let (first, prefill, given) = (!stay.demand.started, stay.demand.prefill, tokens.len() as u32);
        stay.left -= given;
        engine.demand.leave(&stay.demand);
        stay.demand = LegDemand {
            prefill: 0,
            started: true,
            context: stay.demand.context + given,
            outputs: stay.demand.outputs - given,
            ..stay.demand
        };
        engine.demand.enter(&stay.demand);
        let gap = now.since(std::mem::replace(&mut stay.last, now));
        if !first {
            return engine.signals.more_tokens(now, gap, given);
        }
        let times = stay.loading.is_none().then(|| (now.since(stay.since), self.costs.alone(prefill.into())));
        engine.signals.first_token(now, times);
        engine.started(prefill);
        if let Some(prefix) = &mut self.prefix {
            locality::used(prefix, stay.engine, journey, stay.demand.context - given);
        }
        stay.arriving = false;
        stay.phase = if stay.split { Phase::Handoff } else { Phase::Decode };
        if !stay.split {
            stay.decodes_since = Some(now);
            let at_most = f64::from(stay.left) * self.costs.step(0.0, engine.demand.running as f64);
            self.admission.decodes.began(stay.engine, now, at_most);
        }
        // The leg has its KV, loaded or computed: nobody needs the blocks it came from any more.
        release(held.take(), actions);
        if let Some(Loading { from, tokens, at_once, copied: Some((copy, bytes)) }) = stay.loading {
            let joining = engine.joining(&self.costs, engine.demand.running as f64);
            // Where the engine had the prefix in its cache, no copy shows what one costs.
            let copied = if bytes == Bytes(0) { 0 } else { tokens };
            if at_once {
                self.costs.observe_handoff(copied, copy, now.since(stay.since), joining);
            }
            self.copies.observe(from, stay.engine, copied, copy);
        }
        if let Some(admitted) = admitted {
            self.first_token(now, admitted, objectives);
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
            FinishReason::Length if (stay.split && stay.left == 0) || stay.parting.is_some() => {
                let held = held.map(|HeldKv { tokens }| KvSource { engine, leg, tokens });
                return self.hand_over(now, journey, held, &stay, actions);
            }
            FinishReason::Length => Some(format!("it ended the leg {} tokens early", stay.left)),
            FinishReason::Aborted => Some("it aborted the leg unasked".to_owned()),
            FinishReason::Error(why) => Some(why.clone()),
        };
        if stay.split || stay.parting.is_some() {
            // Also when the engine does not say that it holds blocks: one that aborts or fails a leg never does.
            actions.push(Action::Release { engine, leg });
        }
        let result = why.map_or(Ok(()), |why| Err(RequestError::Engine { engine, phase, why }));
        actions.push(Action::Finish { request: leg.request, result });
    }

    /// The leg is over, and its engine holds the blocks: on to an engine that decodes, the one that was chosen when the leg was parted, or
    /// else by the signals of this moment. Where nobody can take the blocks, the request stays.
    fn hand_over(&mut self, now: Time, mut journey: Journey, held: Option<KvSource>, stay: &Stay, actions: &mut Vec<Action>) {
        let (from, ask) = (stay.engine, journey.ask());
        let chosen = stay.parting.and_then(|parting| parting.to).filter(|to| self.engines[to.index()].takes_kv());
        let to = match chosen {
            _ if !self.engines[from.index()].moves_kv() => None,
            None => {
                self.look_up(&mut journey);
                let decided = self.decide_decode(&ask, from);
                if let Some(engine) = decided {
                    self.explain(journey.request.id, &ask, Some(from), Placement::Whole(engine), actions);
                }
                decided
            }
            chosen => chosen,
        };
        let engine = to.unwrap_or(from);
        // An engine does not fetch from itself; what its prefix cache kept serves instead.
        let (kv_source, unused) = if engine == from { (None, held) } else { (held, None) };
        release(unused, actions);
        if stay.parting.is_some() {
            // Also where it comes back, so that it is not parted again at once.
            (journey.moves, journey.moved_at) = (journey.moves + 1, Some(now));
        }
        let moves = stay.parting.filter(|_| engine != from);
        if let Some(Parting { why, .. }) = moves {
            let (request, tokens) = (journey.request.id, kv_source.map_or(0, |source| source.tokens));
            actions.push(Action::Note(Box::new(RouterNote::Migrated { request, from, to: engine, tokens, why })));
        }
        let request = journey.request.id;
        self.send(now, journey, engine, false, kv_source, actions);
        if let Some(flight) = self.flights.get_mut(&request) {
            flight.stay.arriving = moves.is_some();
        }
    }

    pub(super) fn kv_moved(&mut self, leg: LegId, copy: Micros, bytes: Bytes, ok: bool, actions: &mut Vec<Action>) {
        let Some(flight) = self.flights.get_mut(&leg.request).filter(|flight| flight.stay.leg == leg) else { return };
        let Flight { journey, stay, held } = flight;
        if ok {
            // The mover has released the source.
            *held = None;
            if let Some(loading) = &mut stay.loading {
                loading.copied = Some((copy, bytes));
            }
            return;
        }
        release(held.take(), actions);
        stay.loading = None;
        if !stay.demand.started {
            let prompt = journey.ask().prompt_tokens;
            let demand = &mut self.engines[stay.engine.index()].demand;
            demand.leave(&stay.demand);
            stay.phase = Phase::Prefill;
            stay.believed = locality::cached_on(self.prefix.as_ref(), stay.engine, journey);
            stay.demand.prefill = prompt - stay.believed;
            stay.demand.long = stay.demand.prefill >= self.long_prompt_tokens_min;
            demand.enter(&stay.demand);
        }
    }

    pub(super) fn engine_died(&mut self, now: Time, dead: EngineId, why: &str, actions: &mut Vec<Action>) {
        self.engines[dead.index()].died();
        self.prefixes_gone(dead);
        self.keep_one_at_work(actions);
        self.ending.retain(|_, engine| *engine != dead);
        let mut stranded = Vec::new();
        for (&request, flight) in &mut self.flights {
            if flight.stay.engine == dead {
                stranded.push(request);
            }
            // Its blocks are gone with it. A leg that was to fetch them finds that out from the mover and computes its prompt.
            flight.held.take_if(|source| source.engine == dead);
        }
        stranded.sort_unstable();
        for request in stranded {
            let Some(Flight { mut journey, stay, held }) = self.take_off(request, true) else { continue };
            release(held, actions);
            if let Err(stays) = journey.request.sampling.continues()
                && !journey.tokens.is_empty()
            {
                // To begin anew would take back tokens that the client has.
                let why = format!("{why}; the request cannot go on elsewhere: {stays}");
                let result = Err(RequestError::EngineDied { engine: dead, phase: stay.phase, why });
                actions.push(Action::Finish { request, result });
                continue;
            }
            journey.resumes += 1;
            if journey.resumes > self.settings.resumes_max || self.place(now, journey, actions).is_err() {
                let result = Err(RequestError::EngineDied { engine: dead, phase: stay.phase, why: why.to_owned() });
                actions.push(Action::Finish { request, result });
            }
        }
        if !self.engines.iter().any(|engine| engine.alive) {
            self.clear_queue(|_| RequestError::Rejected { reason: RejectReason::NoEngine }, actions);
        }
    }

    /// Sends the request where the policy says, from wherever it stands. Fails when no engine is alive.
    fn place(&mut self, now: Time, mut journey: Journey, actions: &mut Vec<Action>) -> Result<(), ()> {
        let plan = self.plan(&mut journey).ok_or(())?;
        self.start(now, journey, plan, actions);
        Ok(())
    }

    /// Where the request goes from here, as it will be done: the policy's plan, but whole where it could not be split. None only when no
    /// engine is alive.
    pub(super) fn plan(&mut self, journey: &mut Journey) -> Option<Placement> {
        self.look_up(journey);
        match self.decide(&journey.ask())? {
            // With one token to go there is nothing to decode elsewhere, and without another engine to take the KV no elsewhere. What would
            // get other tokens there stays.
            Placement::Split(engine) if journey.remaining() <= 1 || !journey.can_move() || !self.can_hand_over(engine) => {
                Some(Placement::Whole(engine))
            }
            plan => Some(plan),
        }
    }

    /// Sends the request where the plan just made says.
    pub(super) fn start(&mut self, now: Time, journey: Journey, plan: Placement, actions: &mut Vec<Action>) {
        let (Placement::Whole(engine) | Placement::Split(engine)) = plan;
        self.explain(journey.request.id, &journey.ask(), None, plan, actions);
        self.send(now, journey, engine, matches!(plan, Placement::Split(_)), None, actions);
    }

    pub(super) fn can_hand_over(&self, from: EngineId) -> bool {
        let mut others = self.engines.iter().filter(|engine| engine.id != from);
        self.engines[from.index()].moves_kv() && others.any(EngineState::takes_kv)
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
        // A leg that loads gets from elsewhere what its engine has not cached; else that is computed.
        let cached = locality::cached_on(self.prefix.as_ref(), engine, &mut journey);
        let believed = if kv_source.is_none() { cached } else { 0 };
        let prefill = ask.prompt_tokens - kv_source.map_or(believed, |source| source.tokens.min(ask.prompt_tokens));
        let at_once = self.engines[engine.index()].has_room(ask.prompt_tokens + leg.max_tokens);
        let stay = Stay {
            leg: id,
            engine,
            phase: if kv_source.is_some() { Phase::Handoff } else { Phase::Prefill },
            split,
            parting: None,
            arriving: false,
            left: leg.max_tokens,
            demand: LegDemand {
                prefill,
                long: prefill >= self.long_prompt_tokens_min,
                context: ask.prompt_tokens,
                outputs: leg.max_tokens,
                started: false,
                objectives: ask.objectives,
            },
            believed,
            since: now,
            decodes_since: None,
            last: now,
            loading: kv_source.map(|source| Loading { from: source.engine, tokens: source.tokens, at_once, copied: None }),
        };
        self.engines[engine.index()].demand.enter(&stay.demand);
        self.flights.insert(id.request, Flight { journey, stay, held: kv_source });
        actions.push(Action::Submit { engine, leg });
    }

    /// Takes the request out of the books, and its leg off its engine. `cut_off`: the leg would have gone on.
    fn take_off(&mut self, request: RequestId, cut_off: bool) -> Option<Flight> {
        let mut flight = self.flights.remove(&request)?;
        self.prefix_left(&mut flight);
        let engine = &mut self.engines[flight.stay.engine.index()];
        engine.left(&flight.stay.demand);
        if let Some(began) = flight.stay.decodes_since {
            let cut_off = cut_off || flight.stay.parting.is_some();
            self.admission.decodes.ended(flight.stay.engine, began, self.now, cut_off);
        }
        Some(flight)
    }
}

fn release(source: Option<KvSource>, actions: &mut Vec<Action>) {
    actions.extend(source.map(|KvSource { engine, leg, .. }| Action::Release { engine, leg }));
}
