//! Live migrations that are under way, whether they are to pay or empty an engine.

use dualpool_types::EngineId;

use crate::fleet::EngineState;
use crate::flight::{Detaching, Flights, Stay};

/// Bounded by the engines.
#[derive(Debug)]
pub(crate) struct UnderWay {
    max: u32,
    count: u32,
    /// By engine: requests that are leaving it, and that are meant to come to it, but not sent yet.
    leaving: Vec<u32>,
    coming: Vec<Coming>,
}

/// What is meant to come to an engine: it has no place there yet, and is to find one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Coming {
    pub(crate) legs: u32,
    /// Tokens whose KV they will take.
    pub(crate) tokens: u64,
}

impl Coming {
    fn add(&mut self, stay: &Stay) {
        self.legs += 1;
        self.tokens += u64::from(stay.demand.context) + u64::from(stay.left);
    }
}

impl UnderWay {
    /// At most `max` at a time.
    pub(crate) fn new(max: u32, engines: usize) -> UnderWay {
        UnderWay { max, count: 0, leaving: vec![0; engines], coming: vec![Coming::default(); engines] }
    }

    pub(crate) fn recount(&mut self, flights: &Flights) {
        self.count = 0;
        self.leaving.fill(0);
        self.coming.fill(Coming::default());
        for flight in flights.iter().filter(|flight| flight.is_migrating()) {
            match flight.stay.detaching {
                Some(Detaching { to, .. }) => self.begins(&flight.stay, to),
                None => self.count += 1,
            }
        }
    }

    /// Whether one more may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.count < self.max
    }

    /// A request is to leave the engine it is on, for this one or for one that is chosen then.
    pub(crate) fn begins(&mut self, stay: &Stay, to: Option<EngineId>) {
        self.count += 1;
        self.leaving[stay.engine.index()] += 1;
        to.into_iter().for_each(|to| self.coming[to.index()].add(stay));
    }

    pub(crate) fn coming(&self, engine: EngineId) -> Coming {
        self.coming[engine.index()]
    }

    /// Requests that decode on this engine once all that is under way is over.
    pub(crate) fn running_after(&self, engine: &EngineState) -> f64 {
        let running = engine.demand.running as f64 - f64::from(self.leaving[engine.id.index()]);
        running.max(0.0) + f64::from(self.coming(engine.id).legs)
    }
}
