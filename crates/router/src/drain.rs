//! Draining an engine: it gets no new requests, those it decodes move away, and the others follow with their first token.

use thiserror::Error;

use dualpool_types::records::{MigrationReason, RouterNote};
use dualpool_types::{EngineId, Time};

use super::flight::Parting;
use super::{Action, Router};

/// Why an engine is not drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DrainError {
    #[error("{engine} is not one of the fleet's {engines} engines, engine-0 to engine-{}", .engines - 1)]
    Unknown { engine: EngineId, engines: usize },
    #[error("{engine} is dead: nothing is left on it")]
    Dead { engine: EngineId },
    #[error("{engine} is the last engine that takes requests; undrain another one first")]
    Last { engine: EngineId },
}

impl Router {
    /// Whether an engine may be drained; the last one that takes work may not.
    pub fn can_drain(&self, engine: EngineId) -> Result<(), DrainError> {
        let engines = self.engines.len();
        let state = self.engines.get(engine.index()).ok_or(DrainError::Unknown { engine, engines })?;
        if !state.alive {
            return Err(DrainError::Dead { engine });
        }
        let mut others = self.engines.iter().filter(|other| other.id != engine);
        if others.any(|other| other.takes_work()) { Ok(()) } else { Err(DrainError::Last { engine }) }
    }

    pub(super) fn drain(&mut self, engine: EngineId) {
        if self.can_drain(engine).is_ok() {
            self.engines[engine.index()].draining = true;
            self.migration.told[engine.index()] = false;
        }
    }

    pub(super) fn undrain(&mut self, engine: EngineId) {
        if let Some(engine) = self.engines.get_mut(engine.index()) {
            engine.draining = false;
        }
    }

    /// After a death: when all engines left are being drained, they serve again, for nobody else would.
    pub(super) fn keep_one_at_work(&mut self, actions: &mut Vec<Action>) {
        if self.engines.iter().any(|engine| engine.takes_work()) {
            return;
        }
        for engine in self.engines.iter_mut().filter(|engine| engine.draining) {
            engine.draining = false;
            let why = "no other engine is left to take requests".to_owned();
            actions.push(Action::Note(Box::new(RouterNote::DrainEnded { engine: engine.id, why })));
        }
    }

    /// Moves what can move, as far as moves may be under way, and tells which engines have come to be empty.
    pub(super) fn drain_on(&mut self, now: Time, actions: &mut Vec<Action>) {
        for at in 0..self.engines.len() {
            let engine = self.engines[at].id;
            if !self.engines[at].draining || self.migration.told[at] {
                continue;
            }
            if self.is_empty(engine) {
                self.migration.told[at] = true;
                actions.push(Action::Note(Box::new(RouterNote::Drained { engine })));
                continue;
            }
            // What cannot take its KV along stays to its end, which is nearer than computing all of it again.
            if !self.can_hand_over(engine) {
                continue;
            }
            self.gather(engine, now);
            for i in 0..self.migration.candidates.len() {
                let (_, request) = self.migration.candidates[i];
                if !self.may_move_more() {
                    return;
                }
                self.part(request, Parting { to: None, why: MigrationReason::Drain }, actions);
            }
        }
    }

    /// Nothing runs there, and nobody needs anything that lies there.
    fn is_empty(&self, engine: EngineId) -> bool {
        let holds = self.flights.values().any(|flight| flight.held.is_some_and(|source| source.engine == engine));
        let ending = self.ending.values().any(|of| *of == engine);
        self.engines[engine.index()].demand.depth() == 0 && !holds && !ending
    }
}
