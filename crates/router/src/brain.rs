//! `Router`: what it is made of, what it can be asked, and admission. What happens to a request is in `life`.

use dualpool_types::records::{AdmissionState, RouterNote};
use dualpool_types::{Arrangement, ArrangementError, EngineId, LegId, PolicyKind, RequestId, Role, Time, TokenId};

use super::admission::Admission;
use super::auto::{Auto, Change, FleetModel};
use super::drain::{self, Drain, DrainError, DrainStep};
use super::fleet::Fleet;
use super::flight::Flights;
use super::flight::{Detaching, Flight};
use super::migration::{Migration, UnderWay};
use super::placement::{Ask, Placement};
use super::policies::{ActivePolicy, Policy};
use super::prefix::{Chain, PrefixIndex, PrefixTracker, Tokens};
use super::roles::RoleWatch;
use super::{Action, CopyTable, CostModel, Demand, EngineFacts, EngineState, Event, FleetView};
use crate::RouterSettings;

/// Decides where every request goes and follows it to its end.
///
/// Its memory is bounded: at most `router.max_in_flight` requests and aborted legs, each with its own tokens, three times
/// `router.admission.queue_max` requests that wait, and `router.prefix.blocks_max` blocks of prefixes.
pub struct Router {
    pub(super) fleet: Fleet,
    pub(super) policy: ActivePolicy,
    pub(super) auto: Option<Box<Auto>>,
    pub(super) roles: RoleWatch,
    pub(super) prefix: PrefixTracker,
    pub(super) settings: RouterSettings,
    pub(super) flights: Flights,
    pub(super) admission: Admission,
    pub(super) migration: Migration,
    pub(super) drain: Drain,
    /// Live migrations, whether `migration` or `drain` began them.
    pub(super) migrating: UnderWay,
}

impl Router {
    /// A router over these engines, by `EngineId`. It serves by `least_load` until it is given an arrangement.
    pub fn new(fleet: &[EngineFacts], settings: &RouterSettings) -> Router {
        Router {
            fleet: Fleet::new(fleet, settings),
            policy: ActivePolicy::new(PolicyKind::LeastLoad, settings),
            auto: None,
            roles: RoleWatch::default(),
            prefix: PrefixTracker::new(&settings.prefix, fleet.len()),
            settings: settings.clone(),
            flights: Flights::default(),
            admission: Admission::new(settings, fleet.len()),
            migration: Migration::new(&settings.migration, fleet.len()),
            drain: Drain::new(&settings.migration, fleet.len()),
            migrating: UnderWay::new(settings.migration.in_flight_max, fleet.len()),
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

    /// What is due with time.
    fn tick(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.migrate(now, actions);
        self.fleet.tune_due(now, actions);
        self.balance_pools(now, actions);
        self.choose(now, actions);
        self.mind_queue(now, actions);
    }

    /// Requests that are not over, those that wait for admission included, and aborted legs that their engine has not ended yet.
    pub fn in_flight(&self) -> usize {
        self.flights.len() + self.admission.queue_len()
    }

    /// How admission stands.
    pub fn admission(&self) -> AdmissionState {
        self.admission.state(self.fleet.prompt_tokens_in_flight())
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

    /// What the engines' prefix caches are believed to hold. None while nobody asks.
    pub fn prefixes(&self) -> Option<&PrefixIndex> {
        self.prefix.index()
    }

    /// Where a request that starts now goes, with nothing of its prompt in any cache. None only when no engine is alive.
    pub fn decide(&mut self, ask: &Ask) -> Option<Placement> {
        self.policy.place(self.fleet.view(&[]), ask)
    }

    /// Where a request with this prompt goes. `chain` is empty, and names afterwards what was asked for of the prompt; it comes from
    /// `PrefixIndex::chain`, or is the default one while nobody asks for caches.
    pub fn decide_for(&mut self, ask: &Ask, prompt: &[TokenId], chain: &mut Chain) -> Option<Placement> {
        let cached = self.prefix.look_up_prompt(chain, Tokens { prompt, outputs: &[] });
        self.policy.place(self.fleet.view(cached), ask)
    }

    /// Whether blocks held for this leg are, or will be, of use: the leg still runs, or another one is to fetch them.
    pub fn needs_blocks_of(&self, leg: LegId) -> bool {
        self.flights.need_blocks_of(leg)
    }

    /// What a policy would see now, of no prompt in particular.
    pub(super) fn view<T>(&self, look: impl FnOnce(&FleetView<'_>) -> T) -> T {
        look(&self.fleet.view(&[]))
    }

    /// Who can no longer be in time is told so, and a note is left of what has changed.
    fn mind_queue(&mut self, now: Time, actions: &mut Vec<Action>) {
        for (request, reason) in self.admission.late(now) {
            self.turn_away(&request, reason, actions);
        }
        if let Some(state) = self.admission.note(now, self.fleet.prompt_tokens_in_flight()) {
            super::life::note(RouterNote::Admission(state), actions);
        }
    }

    /// Whether an engine may be drained; the last one that takes work may not.
    pub fn can_drain(&self, engine: EngineId) -> Result<(), DrainError> {
        drain::can_drain(&self.fleet.engines, engine)
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
                DrainStep::Drained(engine) => super::life::note(RouterNote::Drained { engine }, actions),
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

    /// Lets those that adapt see what comes in and what comes out, before it is handled.
    fn observe_mix(&mut self, event: &Event<'_>) {
        match event {
            Event::Arrived(request) if self.settings.roles.enabled => self.roles.arrived(request),
            Event::Output { leg, tokens, cached_tokens, finish } => {
                let Some(auto) = &mut self.auto else { return };
                let Some(flight) = self.flights.on_leg(*leg) else { return };
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
        self.serve_by(arrangement.policy);
        self.watch_from_here(arrangement);
        // What was learnt under another arrangement is no part of this one's account.
        self.admission = Admission::new(&self.settings, self.fleet.engines.len());
        Ok(())
    }

    /// The same with requests in flight: those stay where they are, new ones follow the arrangement, and what
    /// is watched goes on. Engines whose settings change are tuned by the actions.
    pub fn rearrange(&mut self, arrangement: &Arrangement, actions: &mut Vec<Action>) {
        self.fleet.rearrange(arrangement, actions);
        self.serve_by(arrangement.policy);
    }

    fn serve_by(&mut self, policy: PolicyKind) {
        self.policy.change(policy, &self.settings);
        self.prefix.follow(&self.fleet.engines, self.policy.wants_cached());
    }

    /// Serves by a policy that is not one of this crate's, which is noted as the one that served so far.
    pub fn serve_by_own(&mut self, policy: Box<dyn Policy>) {
        self.policy.change_to(self.policy.kind(), policy);
        self.prefix.follow(&self.fleet.engines, self.policy.wants_cached());
    }

    /// What was watched under another arrangement says nothing about this one.
    fn watch_from_here(&mut self, arrangement: &Arrangement) {
        let auto = arrangement.policy == PolicyKind::Auto;
        self.auto = auto.then(|| Box::new(Auto::new(&self.settings, arrangement, self.fleet.now)));
        self.roles = RoleWatch::default();
    }
}
