//! Draining an engine: it gets no new requests, those it decodes migrate, and the others follow with their first token.
//!
//! Whether an engine is being drained stands with the engine (`EngineState::draining`), where the policies see it. It is set and
//! unset here, and by an engine's death.

use dualpool_types::records::MigrationReason;
use dualpool_types::{EngineId, RequestId};
use thiserror::Error;

use crate::fleet::{EngineState, FleetView};
use crate::flight::{Detaching, Flight, Flights};
use crate::migration::{Candidates, UnderWay};
use crate::settings::MigrationSettings;

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

/// What is to be done about engines that are being drained.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DrainStep {
    /// This request is to leave its engine.
    Detach(RequestId, Detaching),
    /// Nothing is left on this engine.
    Drained(EngineId),
}

#[derive(Debug)]
pub(crate) struct Drain {
    /// By engine: it was said to be drained.
    told: Vec<bool>,
    candidates: Candidates,
}

impl Drain {
    pub(crate) fn new(settings: &MigrationSettings, engines: usize) -> Drain {
        Drain { told: vec![false; engines], candidates: Candidates::new(settings.candidates_max) }
    }

    /// From now on the engine gets no new requests. Ignored where `can_drain` refuses.
    pub(crate) fn begin(&mut self, engines: &mut [EngineState], engine: EngineId) {
        if can_drain(engines, engine).is_ok() {
            engines[engine.index()].draining = true;
            self.told[engine.index()] = false;
        }
    }

    /// What is to leave the engines that are being drained, as far as migrations may be under way, and which of them have come to be empty.
    pub(crate) fn tick(&mut self, fleet: &FleetView<'_>, flights: &Flights, under_way: &mut UnderWay) -> Vec<DrainStep> {
        let mut steps = Vec::new();
        for (engine, told) in fleet.engines.iter().zip(&mut self.told) {
            if !engine.draining || *told {
                continue;
            }
            if engine.demand.depth() == 0 && !flights.need(engine.id) {
                *told = true;
                steps.push(DrainStep::Drained(engine.id));
                continue;
            }
            // What cannot take its KV along stays to its end, which is nearer than computing all of it again.
            if !fleet.can_hand_off(engine.id) {
                continue;
            }
            let may = |flight: &Flight| flight.stay.engine == engine.id && flight.can_detach();
            for (request, flight) in self.candidates.among(flights, may) {
                if !under_way.has_room() {
                    return steps;
                }
                under_way.begins(&flight.stay, None);
                steps.push(DrainStep::Detach(request, Detaching { to: None, why: MigrationReason::Drain }));
            }
        }
        steps
    }
}

/// Whether an engine may be drained; the last one that takes work may not.
pub(crate) fn can_drain(engines: &[EngineState], engine: EngineId) -> Result<(), DrainError> {
    let count = engines.len();
    let state = engines.get(engine.index()).ok_or(DrainError::Unknown { engine, engines: count })?;
    if !state.alive {
        return Err(DrainError::Dead { engine });
    }
    let mut others = engines.iter().filter(|other| other.id != engine);
    if others.any(EngineState::takes_work) { Ok(()) } else { Err(DrainError::Last { engine }) }
}

/// The engine takes requests again.
pub(crate) fn undrain(engines: &mut [EngineState], engine: EngineId) {
    if let Some(engine) = engines.get_mut(engine.index()) {
        engine.draining = false;
    }
}

/// After a death: when all engines left are being drained, they serve again, for no other would. Returns those that do.
pub(crate) fn keep_one_at_work(engines: &mut [EngineState]) -> Vec<EngineId> {
    if engines.iter().any(EngineState::takes_work) {
        return Vec::new();
    }
    let draining = engines.iter_mut().filter(|engine| engine.draining);
    draining
        .map(|engine| {
            engine.draining = false;
            engine.id
        })
        .collect()
}
