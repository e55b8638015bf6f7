//! Which requests may leave an engine.

use dualpool_types::RequestId;

use crate::flight::{Flight, Flights};

/// The requests that may leave one engine: those with the least KV, in an order that does not depend on chance. Keeps its memory from one
/// engine to the next.
#[derive(Debug)]
pub(crate) struct Candidates {
    max: usize,
    found: Vec<(u32, RequestId)>,
}

impl Candidates {
    /// At most so many of them are looked at.
    pub(crate) fn new(max: u32) -> Candidates {
        Candidates { max: max as usize, found: Vec::new() }
    }

    pub(crate) fn among<'a>(
        &'a mut self,
        flights: &'a Flights,
        may: impl Fn(&Flight) -> bool,
    ) -> impl Iterator<Item = (RequestId, &'a Flight)> {
        self.found.clear();
        let able = flights.iter().filter(|flight| may(flight));
        self.found.extend(able.map(|flight| (flight.stay.demand.context, flight.journey.request.id)));
        self.found.sort_unstable();
        self.found.truncate(self.max);
        self.found.iter().filter_map(|&(_, request)| Some((request, flights.get(request)?)))
    }
}
