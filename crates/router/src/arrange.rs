//! How the fleet comes to be served by an arrangement: all at once while it is idle, or with requests in flight.
//!
//! A request that runs keeps the plan it was placed by. What an arrangement changes is where the next decision sends it: a leg that
//! ends for a hand-off asks the new policy who decodes, and that may be any engine, as may what comes after an engine's death.

use dualpool_types::{Arrangement, ArrangementError, Micros, PolicyKind, Time, Tuning};

use super::admission::Admission;
use super::auto::Auto;
use super::roles::RoleWatch;
use super::{Action, EngineState, Router, policy};

/// How long larger steps wait for the decodes that they would disturb.
const TUNE_DELAY_MAX: Micros = Micros(5_000_000);

impl Router {
    /// Serves by this arrangement from now on. Only while nothing is in flight, so that all that is served is served by it; who calls
    /// this tunes the engines.
    pub fn arrange(&mut self, arrangement: &Arrangement) -> Result<(), ArrangementError> {
        let in_flight = self.in_flight();
        if in_flight > 0 {
            return Err(ArrangementError::Busy { in_flight });
        }
        self.suits(arrangement)?;
        self.engines.iter_mut().for_each(|engine| engine.arrange(arrangement));
        self.serve_by(arrangement);
        self.watch_from_here(arrangement);
        // What was learnt under another arrangement is no part of this one's account.
        self.admission = Admission::new(&self.settings.admission, self.engines.len());
        Ok(())
    }

    /// The same with requests in flight, by the router's own choice: those stay where they are, new ones follow the arrangement, and what
    /// is watched goes on. Engines whose settings change are tuned by the actions.
    pub fn rearrange(&mut self, arrangement: &Arrangement, actions: &mut Vec<Action>) {
        for engine in &mut self.engines {
            engine.role = arrangement.roles[engine.id.index()];
            retune(engine, self.now, arrangement.tunings[engine.id.index()], actions);
        }
        self.serve_by(arrangement);
    }

    /// Gives engines the settings that waited for requests to be over.
    pub(super) fn tune_due(&mut self, now: Time, actions: &mut Vec<Action>) {
        for engine in &mut self.engines {
            let due = |&(latest, tuning): &(Time, Tuning)| latest <= now || !engine.is_disturbed_by(tuning);
            if let Some((_, tuning)) = engine.next_tuning.filter(due) {
                tune(engine, tuning, actions);
            }
        }
    }

    fn serve_by(&mut self, arrangement: &Arrangement) {
        self.policy = policy::build(arrangement.policy, &self.settings);
        self.kind = arrangement.policy;
        self.track_prefixes();
        self.long_prompt_tokens_min = arrangement.long_prompt_tokens_min;
    }

    /// What was watched under another arrangement says nothing about this one.
    fn watch_from_here(&mut self, arrangement: &Arrangement) {
        let auto = arrangement.policy == PolicyKind::Auto;
        self.auto = auto.then(|| Box::new(Auto::new(&self.settings, arrangement, self.now)));
        self.roles = RoleWatch::default();
    }

    /// Whether this fleet can be served so.
    fn suits(&self, arrangement: &Arrangement) -> Result<(), ArrangementError> {
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
}

/// Tunes an engine now, or, where that would make the steps of those that decode on it longer than they bargained for, a little later:
/// a decode engine that is to prefill gets its large steps when its decodes are over.
pub(super) fn retune(engine: &mut EngineState, now: Time, tuning: Tuning, actions: &mut Vec<Action>) {
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
