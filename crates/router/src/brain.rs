//! `Router`: what it is made of, what it can be asked, and admission. What happens to a request is in `life`.

use std::cell::RefCell;
use std::collections::HashMap;

use dualpool_types::records::{Placed, RouterNote};
use dualpool_types::{DeviceSignals, EngineId, EngineStats, LegId, PolicyKind, RejectReason, Request, RequestId, Role, Time};

use super::admission::Admission;
use super::auto::Auto;
use super::flight::Flight;
use super::migration::Migration;
use super::policy::{self, Ask, Placement, Policy};
use super::prefix::PrefixIndex;
use super::roles::RoleWatch;
use super::signals::EngineSignals;
use super::{Action, CopyTable, CostModel, Demand, EngineFacts, EngineState, Event, Explanation, FleetView};
use crate::RouterSettings;

/// Decides where every request goes and follows it to its end.
///
/// Its memory is bounded: at most `router.max_in_flight` requests and aborted legs, each with its own tokens, three times
/// `router.admission.queue_max` requests that wait, and `router.prefix.blocks_max` blocks of prefixes.
pub struct Router {
    pub(super) engines: Vec<EngineState>,
    pub(super) costs: CostModel,
    pub(super) copies: CopyTable,
    pub(super) policy: Box<dyn Policy>,
    /// What `policy` is; never `Auto`, which is what chose it.
    pub(super) kind: PolicyKind,
    pub(super) auto: Option<Box<Auto>>,
    pub(super) roles: RoleWatch,
    /// What the engines' prefix caches are believed to hold. None when nobody asks.
    pub(super) prefix: Option<PrefixIndex>,
    /// What the decision at hand is made of; none unless somebody wants to know.
    explanation: Option<RefCell<Explanation>>,
    /// By engine: what its prefix cache is believed to hold of the prompt that is being decided on. Zeros between decisions.
    pub(super) cached: Vec<u32>,
    pub(super) settings: RouterSettings,
    /// The time of the last event: how old a device's signals are counts from it.
    pub(super) now: Time,
    pub(super) long_prompt_tokens_min: u32,
    pub(super) flights: HashMap<RequestId, Flight>,
    /// Aborted legs whose end the engine has yet to report. Until then it may still come to hold blocks for them.
    pub(super) ending: HashMap<LegId, EngineId>,
    pub(super) admission: Admission,
    pub(super) migration: Migration,
}

impl Router {
    /// A router over these engines, by `EngineId`. It serves by `least_load` until it is given an arrangement.
    pub fn new(fleet: &[EngineFacts], settings: &RouterSettings) -> Router {
        let signals = EngineSignals::new(&settings.signals);
        let engines = fleet.iter().enumerate().map(|(i, &facts)| EngineState::new(EngineId(i as u16), facts, signals.clone()));
        Router {
            engines: engines.collect(),
            costs: CostModel::default(),
            copies: CopyTable::new(fleet.len()),
            policy: policy::build(PolicyKind::LeastLoad, settings),
            kind: PolicyKind::LeastLoad,
            auto: None,
            roles: RoleWatch::default(),
            prefix: None,
            explanation: settings.explain.then(RefCell::default),
            cached: vec![0; fleet.len()],
            settings: settings.clone(),
            now: Time::default(),
            long_prompt_tokens_min: settings.prefill_ctx_thresh,
            flights: HashMap::new(),
            ending: HashMap::new(),
            admission: Admission::new(&settings.admission, fleet.len()),
            migration: Migration::new(fleet.len()),
        }
    }

    /// Takes what happened at `now`, and appends what is to be done about it.
    pub fn handle(&mut self, now: Time, event: Event<'_>, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.observe_mix(&event);
        match event {
            Event::Arrived(request) => self.arrived(now, request, actions),
            Event::Cancelled(request) => self.cancelled(request, actions),
            Event::Output { leg, tokens, cached_tokens, finish } => {
                self.prefix_reported(leg, cached_tokens);
                self.output(now, leg, tokens, finish, actions);
            }
            Event::KvMoved { leg, copy, bytes, ok } => self.kv_moved(leg, copy, bytes, ok, actions),
            Event::EngineStats { engine, stats } => self.reported(now, engine, stats),
            Event::DeviceSignals { engine, signals } => self.device_said(now, engine, signals),
            Event::EngineDied { engine, why } => self.engine_died(now, engine, why, actions),
            Event::KvLost { engine } => self.kv_lost(engine),
            Event::PrefixCacheReset { engine } => self.prefixes_gone(engine),
            Event::CopyCost { from, to, lines } => self.copies.calibrate(from, to, lines),
            Event::Drain { engine } => self.drain(engine),
            Event::Undrain { engine } => self.undrain(engine),
            Event::Tick => self.tick(now, actions),
            Event::ShutDown => self.shut_down(actions),
        }
        // What an event tells may be older than what was decided since.
        self.open_gate(self.now, actions);
    }

    /// What is due with time.
    fn tick(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.move_on(now, actions);
        self.tune_due(now, actions);
        self.balance_pools(now, actions);
        self.choose(now, actions);
        self.mind_gate(now, actions);
    }

    /// Requests that are not over, those that wait for admission included, and aborted legs that their engine has not ended yet.
    pub fn in_flight(&self) -> usize {
        self.admitted() + self.admission.queue_len()
    }

    /// The same without those that wait: what `router.max_in_flight` bounds.
    pub(super) fn admitted(&self) -> usize {
        self.flights.len() + self.ending.len()
    }

    pub fn engines(&self) -> &[EngineState] {
        &self.engines
    }

    pub fn demand(&self, engine: EngineId) -> &Demand {
        &self.engines[engine.index()].demand
    }

    pub fn role(&self, engine: EngineId) -> Role {
        self.engines[engine.index()].role
    }

    pub fn costs(&self) -> &CostModel {
        &self.costs
    }

    pub fn copies(&self) -> &CopyTable {
        &self.copies
    }

    /// Starts from what was learnt before, and of copies between single engines from their calibration. The router goes on fitting
    /// both to what it observes.
    pub fn set_costs(&mut self, costs: CostModel) {
        self.costs = costs.sanitised();
        self.copies.forget_learnt();
    }

    /// Why a request cannot be served, whenever it came.
    pub(super) fn refusal(&self, request: &Request) -> Option<RejectReason> {
        let alive = self.engines.iter().filter(|engine| engine.alive);
        let Some(max_model_len) = alive.map(|engine| engine.facts.max_model_len).min() else {
            return Some(RejectReason::NoEngine);
        };
        let (prompt_tokens, max_tokens) = (request.prompt_tokens(), request.max_tokens);
        if prompt_tokens == 0 {
            return Some(RejectReason::EmptyPrompt);
        }
        if max_tokens == 0 {
            return Some(RejectReason::NoOutput);
        }
        if prompt_tokens.saturating_add(max_tokens) > max_model_len {
            return Some(RejectReason::TooLong { prompt_tokens, max_tokens, max_model_len });
        }
        request.sampling.wrong().map(|rule| RejectReason::Sampling { rule: rule.to_owned() })
    }

    /// Where a request that starts now goes, by what was looked up of its prompt. None only when no engine is alive.
    pub fn decide(&mut self, ask: &Ask) -> Option<Placement> {
        self.deciding(|policy, fleet| policy.place(fleet, ask))
    }

    /// Where a request whose KV is on engine `from` decodes.
    pub(super) fn decide_decode(&mut self, ask: &Ask, from: EngineId) -> Option<EngineId> {
        self.deciding(|policy, fleet| policy.decode_on(fleet, ask, from))
    }

    pub(super) fn deciding<T>(&mut self, decide: impl FnOnce(&mut dyn Policy, &FleetView<'_>) -> T) -> T {
        let Router { engines, costs, copies, policy, cached, long_prompt_tokens_min, now, explanation, .. } = self;
        let (long_prompt_tokens_min, now) = (*long_prompt_tokens_min, *now);
        if let Some(explanation) = explanation {
            explanation.get_mut().clear();
        }
        let explaining = explanation.as_ref();
        let fleet = FleetView { engines, costs, copies, cached, long_prompt_tokens_min, now, explaining };
        let decision = decide(policy.as_mut(), &fleet);
        if let Some(explanation) = explanation {
            explanation.get_mut().decided_with(cached);
        }
        cached.fill(0);
        decision
    }

    /// Looks at the fleet without deciding anything: by what was looked up of the prompt at hand, if it was.
    pub(super) fn judging<T>(&mut self, judge: impl FnOnce(&FleetView<'_>, &Admission) -> T) -> T {
        let judgement = self.view(|fleet| judge(fleet, &self.admission));
        self.cached.fill(0);
        judgement
    }

    /// What a policy would see now.
    pub(super) fn view<T>(&self, look: impl FnOnce(&FleetView<'_>) -> T) -> T {
        let Router { engines, costs, copies, cached, long_prompt_tokens_min, now, .. } = self;
        let (long_prompt_tokens_min, now) = (*long_prompt_tokens_min, *now);
        look(&FleetView { engines, costs, copies, cached, long_prompt_tokens_min, now, explaining: None })
    }

    /// Notes what the decision just made was made of, if somebody wants to know.
    pub(super) fn explain(
        &mut self,
        request: RequestId,
        ask: &Ask,
        from: Option<EngineId>,
        plan: Placement,
        actions: &mut Vec<Action>,
    ) {
        let Some(explanation) = &mut self.explanation else { return };
        let (chosen, split) = match plan {
            Placement::Whole(engine) => (engine, false),
            Placement::Split(engine) => (engine, true),
        };
        let Ask { prompt_tokens, outputs, .. } = *ask;
        let (policy, candidates) = (self.kind, explanation.get_mut().take());
        let placed = Placed { request, policy, prompt_tokens, outputs, from, chosen, split, candidates };
        actions.push(Action::Note(Box::new(RouterNote::Placed(placed))));
    }

    /// Whether blocks held for this leg are, or will be, of use: the leg still runs, or another one is to load them.
    pub fn needs_blocks_of(&self, leg: LegId) -> bool {
        self.flights
            .get(&leg.request)
            .is_some_and(|flight| flight.stay.leg == leg || flight.held.is_some_and(|source| source.leg == leg))
    }

    /// The id came over a socket, so it may be of no engine of ours.
    fn kv_lost(&mut self, engine: EngineId) {
        if let Some(engine) = self.engines.get_mut(engine.index()) {
            engine.kv_lost = true;
        }
    }

    fn device_said(&mut self, now: Time, engine: EngineId, signals: DeviceSignals) {
        if let Some(engine) = self.engines.get_mut(engine.index()) {
            engine.device_said(now, signals);
        }
    }

    pub(super) fn reported(&mut self, now: Time, engine: EngineId, stats: EngineStats) {
        let engine = &mut self.engines[engine.index()];
        if let Some((took, prompt_tokens, decodes)) = engine.report(now, stats) {
            engine.signals.stepped(now, took, self.costs.step(prompt_tokens, decodes));
            self.costs.observe_step(took, prompt_tokens, decodes);
        }
    }
}
