//! `Router`: what it is made of, what it can be asked, and admission. What happens to a request is in `life`.

use std::cell::RefCell;
use std::collections::HashMap;

use dualpool_types::records::{Placed, RouterNote};
use dualpool_types::{Arrangement, ArrangementError, EngineId, LegId, PolicyKind, RequestId, Role, Time};

use super::admission::Admission;
use super::auto::{Auto, Change, FleetModel};
use super::fleet::Fleet;
use super::flight::Flight;
use super::migration::Migration;
use super::placement::{Ask, Placement};
use super::policies::{self, Policy};
use super::prefix::PrefixIndex;
use super::roles::RoleWatch;
use super::{Action, CopyTable, CostModel, Demand, EngineFacts, EngineState, Event, Explanation, FleetView};
use crate::RouterSettings;

/// Decides where every request goes and follows it to its end.
///
/// Its memory is bounded: at most `router.max_in_flight` requests and aborted legs, each with its own tokens, three times
/// `router.admission.queue_max` requests that wait, and `router.prefix.blocks_max` blocks of prefixes.
pub struct Router {
    pub(super) fleet: Fleet,
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
    pub(super) flights: HashMap<RequestId, Flight>,
    /// Aborted legs whose end the engine has yet to report. Until then it may still come to hold blocks for them.
    pub(super) ending: HashMap<LegId, EngineId>,
    pub(super) admission: Admission,
    pub(super) migration: Migration,
}

impl Router {
    /// A router over these engines, by `EngineId`. It serves by `least_load` until it is given an arrangement.
    pub fn new(fleet: &[EngineFacts], settings: &RouterSettings) -> Router {
        Router {
            fleet: Fleet::new(fleet, settings),
            policy: policies::build(PolicyKind::LeastLoad, settings),
            kind: PolicyKind::LeastLoad,
            auto: None,
            roles: RoleWatch::default(),
            prefix: None,
            explanation: settings.explain.then(RefCell::default),
            cached: vec![0; fleet.len()],
            settings: settings.clone(),
            flights: HashMap::new(),
            ending: HashMap::new(),
            admission: Admission::new(&settings.admission, fleet.len()),
            migration: Migration::new(fleet.len()),
        }
    }

    /// Takes what happened at `now`, and appends what is to be done about it.
    pub fn handle(&mut self, now: Time, event: Event<'_>, actions: &mut Vec<Action>) {
        self.fleet.now = self.fleet.now.max(now);
        self.observe_mix(&event);
        match event {
            Event::Arrived(request) => self.arrived(now, request, actions),
            Event::Cancelled(request) => self.cancelled(request, actions),
            Event::Output { leg, tokens, cached_tokens, finish } => {
                self.prefix_reported(leg, cached_tokens);
                self.output(now, leg, tokens, finish, actions);
            }
            Event::KvMoved { leg, copy, bytes, ok } => self.kv_moved(leg, copy, bytes, ok, actions),
            Event::EngineStats { engine, stats } => self.fleet.reported(now, engine, stats),
            Event::DeviceSignals { engine, signals } => self.fleet.device_said(now, engine, signals),
            Event::EngineDied { engine, why } => self.engine_died(now, engine, why, actions),
            Event::KvLost { engine } => self.fleet.kv_lost(engine),
            Event::PrefixCacheReset { engine } => self.prefixes_gone(engine),
            Event::CopyCost { from, to, lines } => self.fleet.copies.calibrate(from, to, lines),
            Event::Drain { engine } => self.drain(engine),
            Event::Undrain { engine } => self.undrain(engine),
            Event::Tick => self.tick(now, actions),
            Event::ShutDown => self.shut_down(actions),
        }
        // What an event tells may be older than what was decided since.
        self.open_gate(self.fleet.now, actions);
    }

    /// What is due with time.
    fn tick(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.move_on(now, actions);
        self.fleet.tune_due(now, actions);
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
        &self.fleet.engines
    }

    /// Engines that a test makes to be as it wants them.
    #[cfg(test)]
    pub(crate) fn engines_mut(&mut self) -> &mut [EngineState] {
        &mut self.fleet.engines
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

    /// Starts from what was learnt before, and of copies between single engines from their calibration. The router goes on fitting
    /// both to what it observes.
    pub fn set_costs(&mut self, costs: CostModel) {
        self.fleet.set_costs(costs);
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
        let Router { fleet, policy, cached, explanation, .. } = self;
        if let Some(explanation) = explanation {
            explanation.get_mut().clear();
        }
        let view = FleetView { explaining: explanation.as_ref(), ..fleet.view(cached) };
        let decision = decide(policy.as_mut(), &view);
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
        look(&self.fleet.view(&self.cached))
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

    /// Lets those that adapt see what comes in and what comes out, before it is handled.
    fn observe_mix(&mut self, event: &Event<'_>) {
        match event {
            Event::Arrived(request) if self.settings.roles.enabled => self.roles.arrived(request),
            Event::Output { leg, tokens, cached_tokens, finish } => {
                let Some(auto) = &mut self.auto else { return };
                let Some(flight) = self.flights.get(&leg.request).filter(|flight| flight.stay.leg == *leg) else { return };
                auto.output(flight, tokens.len(), *cached_tokens, finish.as_ref().map(|(reason, _)| *reason));
            }
            _ => {}
        }
    }

    /// Gives `auto` its turn.
    fn choose(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Router { auto: Some(auto), fleet: Fleet { engines, costs, copies, .. }, settings, .. } = self else { return };
        let Some(change) = auto.tick(now, FleetModel { engines, costs, copies, settings }) else { return };
        let Change { from, to, forecasts, requests } = change;
        self.rearrange(&to, actions);
        let (forecast_from, forecast_to) = forecasts.unzip();
        actions.push(Action::Note(Box::new(RouterNote::Rearranged { from, to, forecast_from, forecast_to, requests })));
    }
}

/// How the fleet comes to be served by an arrangement: all at once while it is idle, or with requests in flight.
///
/// A request that runs keeps the placement it was given. What an arrangement changes is where the next decision sends it: a leg that
/// ends for a hand-off asks the new policy who decodes, and that may be any engine, as may what comes after an engine's death.
impl Router {
    /// Serves by this arrangement from now on. Only while nothing is in flight, so that all that is served is served by it; who calls
    /// this tunes the engines.
    pub fn arrange(&mut self, arrangement: &Arrangement) -> Result<(), ArrangementError> {
        let in_flight = self.in_flight();
        if in_flight > 0 {
            return Err(ArrangementError::Busy { in_flight });
        }
        self.fleet.suits(arrangement)?;
        self.fleet.arrange(arrangement);
        self.serve_by(arrangement);
        self.watch_from_here(arrangement);
        // What was learnt under another arrangement is no part of this one's account.
        self.admission = Admission::new(&self.settings.admission, self.fleet.engines.len());
        Ok(())
    }

    /// The same with requests in flight: those stay where they are, new ones follow the arrangement, and what
    /// is watched goes on. Engines whose settings change are tuned by the actions.
    pub fn rearrange(&mut self, arrangement: &Arrangement, actions: &mut Vec<Action>) {
        self.fleet.rearrange(arrangement, actions);
        self.serve_by(arrangement);
    }

    fn serve_by(&mut self, arrangement: &Arrangement) {
        self.policy = policies::build(arrangement.policy, &self.settings);
        self.kind = arrangement.policy;
        self.track_prefixes();
    }

    /// What was watched under another arrangement says nothing about this one.
    fn watch_from_here(&mut self, arrangement: &Arrangement) {
        let auto = arrangement.policy == PolicyKind::Auto;
        self.auto = auto.then(|| Box::new(Auto::new(&self.settings, arrangement, self.fleet.now)));
        self.roles = RoleWatch::default();
    }
}
