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

#[cfg(test)]
mod tests {
    use dualpool_types::records::MigrationReason;

    use super::*;
    use crate::flight::Flight;

    #[test]
    fn what_is_asked_to_leave_counts_where_it_goes_and_what_has_left_counts_until_it_decodes() {
        let (a, b) = (EngineId(0), EngineId(1));
        let (mut flights, mut under_way) = (Flights::default(), UnderWay::new(2, 2));
        let leaves = |request, to| {
            let mut flight = Flight::decoding(request, a, 300);
            flight.stay.detaching = Some(Detaching { to, why: MigrationReason::SavesTime });
            flight
        };
        flights.insert(leaves(0, Some(b)));
        flights.insert(Flight::decoding(1, a, 300));
        under_way.recount(&flights);
        assert_eq!((under_way.leaving[0], under_way.coming(b).legs, under_way.coming(b).tokens), (1, 1, 400));
        assert!(under_way.has_room());
        let mut arrives = Flight::decoding(2, b, 300);
        arrives.stay.arriving = true;
        flights.insert(arrives);
        under_way.recount(&flights);
        assert!(!under_way.has_room(), "one is on its way out, and one in");
        assert_eq!((under_way.leaving[1], under_way.coming(a).legs), (0, 0));
    }
}
