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

#[cfg(test)]
mod tests {
    use dualpool_types::{KvSource, LegId};

    use super::*;
    use crate::fleet::{EngineFacts, Fleet};
    use crate::settings::RouterSettings;

    const A: EngineId = EngineId(0);
    const B: EngineId = EngineId(1);
    const C: EngineId = EngineId(2);
    const FACTS: EngineFacts = EngineFacts {
        max_model_len: 4096,
        max_num_batched_tokens: 2048,
        max_num_seqs: 64,
        kv_tokens: 32_768,
        kv_transfer: true,
        prefix_block_tokens: 16,
        cost_per_hour: None,
    };

    /// Three engines, of which the first one is drained, with these requests on them; and room for so many migrations.
    struct Drained {
        fleet: Fleet,
        flights: Flights,
        drain: Drain,
        under_way: UnderWay,
    }

    impl Drained {
        fn new(flights: Vec<Flight>, in_flight_max: u32) -> Drained {
            let mut fleet = Fleet::new(&[FACTS; 3], &RouterSettings::default());
            let mut drain = Drain::new(&MigrationSettings::default(), 3);
            drain.begin(&mut fleet.engines, A);
            let mut all = Flights::default();
            for flight in flights {
                fleet.engine_mut(flight.stay.engine).demand.enter(&flight.stay.demand);
                all.insert(flight);
            }
            Drained { fleet, flights: all, drain, under_way: UnderWay::new(in_flight_max, 3) }
        }

        /// The requests that are to leave, and the engines that have come to be empty.
        fn tick(&mut self) -> (Vec<u64>, Vec<EngineId>) {
            self.under_way.recount(&self.flights);
            let (mut leave, mut drained) = (Vec::new(), Vec::new());
            for step in self.drain.tick(&self.fleet.view(&[]), &self.flights, &mut self.under_way) {
                match step {
                    DrainStep::Detach(request, detaching) => {
                        assert!(detaching.to.is_none(), "the policy chooses where it goes");
                        self.flights.get_mut(request).unwrap().stay.detaching = Some(detaching);
                        leave.push(request.0);
                    }
                    DrainStep::Drained(engine) => drained.push(engine),
                }
            }
            (leave, drained)
        }
    }

    #[test]
    fn those_with_the_least_kv_leave_first_and_no_more_at_a_time_than_may() {
        let flights =
            vec![Flight::decoding(0, A, 300), Flight::decoding(1, A, 100), Flight::decoding(2, A, 200), Flight::decoding(3, B, 1)];
        let mut drained = Drained::new(flights, 2);
        assert_eq!(drained.tick(), (vec![1, 2], vec![]));
        assert_eq!(drained.tick(), (vec![], vec![]), "two are on their way");
        drained.flights.remove(RequestId(1));
        assert_eq!(drained.tick(), (vec![0], vec![]));
    }

    #[test]
    fn what_cannot_take_its_kv_along_stays() {
        let mut drained = Drained::new(vec![Flight::decoding(0, A, 300)], 2);
        drained.fleet.engine_mut(A).kv_lost = true;
        assert_eq!(drained.tick(), (vec![], vec![]));
    }

    #[test]
    fn an_engine_is_drained_once_when_nothing_of_it_is_needed_any_more() {
        let mut fetches = Flight::decoding(0, B, 300);
        let leg = LegId { request: RequestId(0), leg: 0 };
        fetches.held = Some(KvSource { engine: A, leg, tokens: 300 });
        let mut drained = Drained::new(vec![fetches], 2);
        assert_eq!(drained.tick(), (vec![], vec![]), "its blocks are on their way");
        drained.flights.get_mut(RequestId(0)).unwrap().held = None;
        drained.flights.aborted(leg, A);
        assert_eq!(drained.tick(), (vec![], vec![]), "an aborted leg may still come to hold some");
        drained.flights.ended(leg);
        assert_eq!(drained.tick(), (vec![], vec![A]));
        assert_eq!(drained.tick(), (vec![], vec![]), "it was said");
    }

    #[test]
    fn the_last_engine_that_takes_requests_is_not_drained_and_serves_again_when_it_has_to() {
        let mut drained = Drained::new(vec![], 2);
        let engines = &mut drained.fleet.engines;
        drained.drain.begin(engines, B);
        assert_eq!(can_drain(engines, C), Err(DrainError::Last { engine: C }));
        assert_eq!(can_drain(engines, EngineId(9)), Err(DrainError::Unknown { engine: EngineId(9), engines: 3 }));
        drained.drain.begin(engines, C);
        assert_eq!(keep_one_at_work(engines), [], "one is at work");
        engines[2].died();
        assert_eq!(can_drain(engines, C), Err(DrainError::Dead { engine: C }));
        assert_eq!(keep_one_at_work(engines), [A, B]);
        undrain(engines, EngineId(9));
        assert!(engines.iter().all(|engine| !engine.draining));
    }
}
