//! What the router knows of each engine. Demand is counted from the router's own events, so it is never stale: a leg counts from the
//! moment it is sent (the in-flight credit that keeps a herd from chasing an old report), and what an engine says of itself only
//! refines it.
//!
//! - `demand`: the legs on an engine, summed up.
//! - `signals`: how well an engine has been doing lately.
//! - `engine`: one engine, with its demand and what it said of itself.
//! - `view`: all of them, as a policy and every other part of the router sees them.

mod demand;
mod engine;
mod signals;
mod view;

use dualpool_types::{
    Arrangement, ArrangementError, Bytes, DeviceSignals, EngineId, EngineStats, Micros, RejectReason, Request, Role, Time, Tuning,
};

use crate::costs::{CopyTable, CostModel};
use crate::event::Action;
use crate::settings::RouterSettings;

pub use demand::Demand;
pub(crate) use demand::LegDemand;
pub use engine::{DEVICE_SIGNALS_AGE_MAX, EngineFacts, EngineState};
pub use signals::{EngineSignals, Signal};
pub use view::FleetView;

/// How long larger steps wait for the decodes that they would disturb.
const TUNE_DELAY_MAX: Micros = Micros(5_000_000);

/// The engines, and what their steps and the copies between them cost.
pub(crate) struct Fleet {
    pub engines: Vec<EngineState>,
    pub costs: CostModel,
    pub copies: CopyTable,
    /// The time of the last event: how old a device's signals are counts from it.
    pub now: Time,
    pub long_prompt_tokens_min: u32,
}

/// A hand-off that is over, from the end of the leg before to the first token of the leg after.
pub(crate) struct HandedOff {
    pub from: EngineId,
    pub to: EngineId,
    /// Tokens whose KV was fetched.
    pub tokens: u32,
    /// What the mover took, and how much it copied.
    pub copy: Micros,
    pub bytes: Bytes,
    /// None for a leg that had to wait for a seat or for memory.
    pub took: Option<Micros>,
}

impl Fleet {
    /// Engines by `EngineId`, idle and of no particular role.
    pub(crate) fn new(facts: &[EngineFacts], settings: &RouterSettings) -> Fleet {
        let signals = EngineSignals::new(&settings.signals);
        let engines = facts.iter().enumerate().map(|(i, &facts)| EngineState::new(EngineId(i as u16), facts, signals.clone()));
        Fleet {
            engines: engines.collect(),
            costs: CostModel::default(),
            copies: CopyTable::new(facts.len()),
            now: Time::default(),
            long_prompt_tokens_min: settings.prefill_ctx_thresh,
        }
    }

    /// What a decision may look at. `cached`: by engine, what its prefix cache is believed to hold of the prompt at hand; empty
    /// where there is none.
    pub(crate) fn view<'a>(&'a self, cached: &'a [u32]) -> FleetView<'a> {
        let Fleet { engines, costs, copies, now, long_prompt_tokens_min } = self;
        let (now, long_prompt_tokens_min) = (*now, *long_prompt_tokens_min);
        FleetView { engines, costs, copies, cached, long_prompt_tokens_min, now, explaining: None }
    }

    pub(crate) fn engine(&self, id: EngineId) -> &EngineState {
        &self.engines[id.index()]
    }

    pub(crate) fn engine_mut(&mut self, id: EngineId) -> &mut EngineState {
        &mut self.engines[id.index()]
    }

    pub(crate) fn has_engine_alive(&self) -> bool {
        self.engines.iter().any(|engine| engine.alive)
    }

    /// Of a leg without a token yet it turned out how much of its prompt the engine has cached: it computes the rest.
    pub(crate) fn recount(&mut self, id: EngineId, leg: &mut LegDemand, cached: u32) {
        let demand = &mut self.engines[id.index()].demand;
        demand.leave(leg);
        leg.prefill = leg.context - cached;
        leg.long = leg.prefill >= self.long_prompt_tokens_min;
        demand.enter(leg);
    }

    /// Prompt tokens dispatched whose request has no token from there yet.
    pub(crate) fn prompt_tokens_in_flight(&self) -> u64 {
        self.view(&[]).prompt_tokens_in_flight()
    }

    /// Why a request cannot be served, whenever it comes.
    pub(crate) fn refusal(&self, request: &Request) -> Option<RejectReason> {
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

    /// Whether this fleet can be served so.
    pub(crate) fn suits(&self, arrangement: &Arrangement) -> Result<(), ArrangementError> {
        arrangement.validate(self.engines.len())?;
        let name = || arrangement.name.clone();
        for (engine, &Tuning { max_num_batched_tokens, .. }) in self.engines.iter().zip(&arrangement.tunings) {
            let max = engine.facts.max_num_batched_tokens;
            if let Some(value) = max_num_batched_tokens.filter(|value| !(1..=max).contains(value)) {
                return Err(ArrangementError::BatchedTokens { name: name(), engine: engine.id, value, max });
            }
            if arrangement.policy.moves_kv() && !engine.facts.kv_transfer {
                let policy = arrangement.policy.name();
                return Err(ArrangementError::NoKvTransfer { name: name(), policy, engine: engine.id });
            }
        }
        Ok(())
    }

    /// The engines are idle, and the caller tunes them.
    pub(crate) fn arrange(&mut self, arrangement: &Arrangement) {
        self.engines.iter_mut().for_each(|engine| engine.arrange(arrangement));
        self.long_prompt_tokens_min = arrangement.long_prompt_tokens_min;
    }

    /// The same with requests on the engines, which are tuned by the actions.
    pub(crate) fn rearrange(&mut self, arrangement: &Arrangement, actions: &mut Vec<Action>) {
        for engine in &mut self.engines {
            engine.role = arrangement.roles[engine.id.index()];
            retune(engine, self.now, arrangement.tunings[engine.id.index()], actions);
        }
        self.long_prompt_tokens_min = arrangement.long_prompt_tokens_min;
    }

    /// The engine takes work of another role from now on, with the settings of those that have it. Returns its role so far.
    pub(crate) fn change_role(&mut self, now: Time, id: EngineId, to: Role, actions: &mut Vec<Action>) -> Role {
        let tuning = self.engines.iter().find(|engine| engine.serves_pool(to)).map(EngineState::settled_tuning);
        let engine = &mut self.engines[id.index()];
        let from = std::mem::replace(&mut engine.role, to);
        if let Some(tuning) = tuning {
            retune(engine, now, tuning, actions);
        }
        from
    }

    /// Gives engines the settings that waited for requests to be over.
    pub(crate) fn tune_due(&mut self, now: Time, actions: &mut Vec<Action>) {
        for engine in &mut self.engines {
            let due = |&(latest, tuning): &(Time, Tuning)| latest <= now || !engine.is_disturbed_by(tuning);
            if let Some((_, tuning)) = engine.next_tuning.filter(due) {
                tune(engine, tuning, actions);
            }
        }
    }

    /// Starts from what was learnt before, and of copies between single engines from their calibration.
    pub(crate) fn set_costs(&mut self, costs: CostModel) {
        self.costs = costs.sanitised();
        self.copies.forget_learnt();
    }

    /// An engine reported. What a whole step took is learnt from.
    pub(crate) fn reported(&mut self, now: Time, id: EngineId, stats: EngineStats) {
        let engine = &mut self.engines[id.index()];
        if let Some((took, prompt_tokens, decodes)) = engine.report(now, stats) {
            engine.signals.stepped(now, took, self.costs.step(prompt_tokens, decodes));
            self.costs.observe_step(took, prompt_tokens, decodes);
        }
    }

    /// Learns from a hand-off.
    pub(crate) fn handed_off(&mut self, HandedOff { from, to, tokens, copy, bytes, took }: HandedOff) {
        // Where the engine had the prefix in its cache, no copy shows what one costs.
        let copied = if bytes == Bytes(0) { 0 } else { tokens };
        if let Some(took) = took {
            let engine = &self.engines[to.index()];
            let joining = engine.joining(&self.costs, engine.demand.running as f64);
            self.costs.observe_handoff(copied, copy, took, joining);
        }
        self.copies.observe(from, to, copied, copy);
    }

    /// The id came over a socket, so it may be of no engine of ours.
    pub(crate) fn kv_lost(&mut self, id: EngineId) {
        if let Some(engine) = self.engines.get_mut(id.index()) {
            engine.kv_lost = true;
        }
    }

    pub(crate) fn device_said(&mut self, now: Time, id: EngineId, signals: DeviceSignals) {
        if let Some(engine) = self.engines.get_mut(id.index()) {
            engine.device_said(now, signals);
        }
    }
}

/// Tunes an engine now, or, where that would make the steps of those that decode on it longer than they bargained for, a little later:
/// a decode engine that is to prefill gets its large steps when its decodes are over.
fn retune(engine: &mut EngineState, now: Time, tuning: Tuning, actions: &mut Vec<Action>) {
    if engine.tuning == tuning {
        engine.next_tuning = None;
    } else if engine.is_disturbed_by(tuning) {
        engine.next_tuning = Some((now.plus(TUNE_DELAY_MAX), tuning));
    } else {
        tune(engine, tuning, actions);
    }
}

fn tune(engine: &mut EngineState, tuning: Tuning, actions: &mut Vec<Action>) {
    engine.tune(tuning);
    if engine.alive {
        actions.push(Action::Tune { engine: engine.id, tuning });
    }
}
