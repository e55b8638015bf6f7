//! What a request that starts now can expect: its TTFT, and the longest wait between two of its tokens.
//!
//! ```text
//! TTFT = queue and prefill on the engine of its placement (`FleetView::ttft`)
//! ITL  = one step of the engine that decodes it, with what decodes there
//!        and where it is handed off first:  hand-off + wait for a seat + joining the batch
//! ```
//! Both are by the cost model of the whole fleet, times the engine's own pace. The first token leaves from the prefill engine, so a
//! hand-off does not delay it: it shows as the gap before the second token.
//!
//! The naive prediction counts what decodes *now*. That is late by as long as a prefill takes: while the prefill pool is full of requests
//! the decode pool looks idle and too many are let in, and when they all decode none is. The predictive one counts what will decode
//! *when the request gets there*: of those that decode now, the ones that have not lasted their time by then, and of those that are on
//! their way, all that have not ended again.

use dualpool_types::{EngineId, Role};

use crate::fleet::{EngineState, FleetView};
use crate::placement::{Ask, Placement};
use crate::settings::EarlyRejection;

use super::decodes::Decodes;

/// A leg whose KV is there waits for the step under way, which may have just begun, and for its own. The mean is one and a half; but what
/// counts is the longest gap, so a mean would have one leg in three miss an objective that it just keeps.
const JOINING_STEPS: f64 = 2.0;

/// Microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outlook {
    pub(crate) ttft: f64,
    pub(crate) itl: f64,
    /// How long a decode is taken to last.
    pub(crate) decode_lasts: f64,
}

/// What one decoding engine has to do, as far as it matters to one more request.
struct Crowd {
    /// Decodes beside it.
    beside: f64,
    /// How long it waits for a seat.
    seat: f64,
}

/// For a placement that can be carried out: of a split, another engine takes the KV.
pub(crate) fn outlook(fleet: &FleetView<'_>, decodes: &Decodes, kind: EarlyRejection, placement: Placement, ask: &Ask) -> Outlook {
    let first = placement.engine();
    let engine = &fleet.engines[first.index()];
    let ttft = fleet.pace(engine) * fleet.ttft(engine, ask.prompt_tokens.into());
    let outputs = f64::from(ask.outputs.saturating_sub(1));
    let alone = outputs * fleet.pace(engine) * fleet.costs.step(0.0, engine.demand.running as f64 + 1.0);
    let decode_lasts = decodes.lasts().unwrap_or(alone).max(1.0);
    let ahead = Ahead { fleet, decodes, ask, ttft, lasts: decode_lasts };
    let gap = |to: &EngineState, crowd: &Crowd| {
        let prompt = to.backlog().min(to.chunk());
        let step = fleet.pace(to) * fleet.costs.step(prompt, crowd.beside + 1.0);
        if to.id == first {
            step
        } else {
            fleet.handoff(first, to.id, ask.prompt_tokens.into()) + crowd.seat + JOINING_STEPS * step
        }
    };
    if ask.outputs <= 1 {
        // Nothing comes after the first token.
        return Outlook { ttft, itl: 0.0, decode_lasts };
    }
    let takers = placement.is_split().then(|| ahead.takers(first));
    let itl = match (kind, takers) {
        (EarlyRejection::Naive | EarlyRejection::Off, None) => {
            gap(engine, &Crowd { beside: engine.demand.running as f64, seat: 0.0 })
        }
        (EarlyRejection::Naive | EarlyRejection::Off, Some(takers)) => {
            let now = |to: &EngineState| Crowd { beside: to.demand.running as f64, seat: fleet.pace(to) * fleet.seat_wait(to) };
            takers.engines(fleet).map(|to| gap(to, &now(to))).fold(f64::INFINITY, f64::min)
        }
        (EarlyRejection::Predictive, None) => {
            gap(engine, &Crowd { beside: ahead.left(engine) + ahead.joined(engine.demand.waiting), seat: 0.0 })
        }
        (EarlyRejection::Predictive, Some(takers)) => {
            let crowd = ahead.crowd(&takers);
            takers.engines(fleet).map(|to| gap(to, &crowd)).fold(f64::INFINITY, f64::min)
        }
    };
    Outlook { ttft, itl, decode_lasts }
}

/// The fleet at the time when the request has its first token.
struct Ahead<'a> {
    fleet: &'a FleetView<'a>,
    decodes: &'a Decodes,
    ask: &'a Ask,
    ttft: f64,
    lasts: f64,
}

/// The engines to which a request can be handed off from another one: those of the decode pool or, without any, all.
struct Takers {
    from: EngineId,
    pool: bool,
    count: usize,
}

impl Takers {
    fn engines<'a>(&self, fleet: &FleetView<'a>) -> impl Iterator<Item = &'a EngineState> {
        let (from, pool) = (self.from, self.pool);
        fleet.engines.iter().filter(move |to| to.id != from && to.takes_kv() && (!pool || to.role == Role::Decode))
    }
}

impl Ahead<'_> {
    fn takers(&self, from: EngineId) -> Takers {
        let count = |pool| Takers { from, pool, count: 0 }.engines(self.fleet).count();
        match (count(true), count(false)) {
            (0, count) => Takers { from, pool: false, count },
            (count, _) => Takers { from, pool: true, count },
        }
    }

    fn left(&self, engine: &EngineState) -> f64 {
        self.decodes.left(engine.id, self.fleet.now, self.ttft, self.lasts)
    }

    /// Of requests that have no token yet, those that decode then. They start evenly spread over the time until then, so where that is
    /// longer than a decode the first of them have ended again.
    fn joined(&self, waiting: u64) -> f64 {
        waiting as f64 * (self.lasts / self.ttft.max(1.0)).min(1.0)
    }

    /// The decode pool's requests, spread evenly: the policy sees to that when it picks the engine.
    fn crowd(&self, takers: &Takers) -> Crowd {
        let engines = takers.count as f64;
        let (mut legs, mut seats) = (0.0, 0.0);
        for to in takers.engines(self.fleet) {
            legs += self.left(to) + self.joined(to.demand.waiting);
            seats += self.seats(to);
        }
        for from in self.fleet.engines.iter().filter(|engine| engine.alive) {
            if from.role == Role::Prefill || from.id == takers.from {
                legs += self.joined(from.demand.waiting);
            }
        }
        let (legs, seats) = (legs / engines, (seats / engines).max(1.0));
        let waiting = (legs + 1.0 - seats).max(0.0);
        Crowd { beside: legs.min(seats - 1.0), seat: waiting / seats * self.lasts }
    }

    /// Legs that fit into a step and whose KV fits into the engine, if they are as large as those that are there.
    fn seats(&self, engine: &EngineState) -> f64 {
        let demand = &engine.demand;
        let tokens = match demand.depth() {
            0 => f64::from(self.ask.prompt_tokens) + f64::from(self.ask.outputs),
            depth => (demand.context_tokens + demand.output_tokens) as f64 / depth as f64,
        };
        f64::from(engine.facts.max_num_seqs).min(engine.facts.kv_tokens as f64 / tokens.max(1.0))
    }
}
