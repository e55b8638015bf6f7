//! The least predicted time, of all requests together: what the request itself takes on an engine, and by how much it holds up those that are there.
//!
//! ```text
//! cost = TTFT + outputs * step(running + 1)                  the request's own time, from the cost model, without cached tokens
//!      + running * prefill                                   while its prompt is computed, the next token of each of them waits
//!      + decode_us * min(outputs * depth, their outputs)     then every step is longer by one more request
//!      + hand-off                                            if there is one
//!      + LATE_WEIGHT * (TTFT - its objective)                where it would be late
//! ```
//! Least load looks at the engine alone; this looks at what THIS request does to it, so a long prompt goes where few are decoding, and a
//! short one with a long answer does not mind a prompt that is soon done. In two pools it is also what decides whether there is a hand-off.

use dualpool_types::{EngineId, Role};

use crate::explain::Terms;
use crate::fleet::{EngineState, FleetView};
use crate::placement::{Ask, Placement};

use super::policy::Policy;
use super::turn::Turn;

/// A microsecond beyond the TTFT objective counts as so many more. The sum alone would let a few prompts wait without end where many
/// requests gain a little by it.
const LATE_WEIGHT: f64 = 4.0;

#[derive(Default)]
pub(super) struct PredictedLatency {
    turn: Turn,
}

/// A prediction in parts, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    ttft: f64,
    late: f64,
    handoff: f64,
    decode: f64,
    /// What others lose while the prompt is computed, and while the answer is.
    delays_by_prefill: f64,
    delays_by_decode: f64,
    /// Until there is room for its KV.
    room: f64,
}

impl Cost {
    /// Computing the prompt on this engine, from now to the first token.
    fn prefill(self, fleet: &FleetView<'_>, ask: &Ask, engine: &EngineState) -> Cost {
        let (prompt, pace) = (f64::from(ask.prompt_tokens), fleet.pace(engine));
        let computing = fleet.uncached(engine.id, prompt) * fleet.costs.prefill_us;
        let delays_by_prefill = pace * computing * engine.demand.running as f64;
        let ttft = pace * fleet.ttft(engine, prompt);
        let late = LATE_WEIGHT * (ttft - ask.objectives.ttft_us_max.0 as f64).max(0.0);
        Cost { ttft, late, delays_by_prefill, ..self }
    }

    /// Decoding on this engine, from the first token to the last.
    fn decode(self, fleet: &FleetView<'_>, ask: &Ask, engine: &EngineState) -> Cost {
        let (demand, pace) = (&engine.demand, fleet.pace(engine));
        let (depth, outputs) = (demand.depth() as f64, f64::from(ask.outputs.saturating_sub(1)));
        let shared_steps = (outputs * depth).min(demand.output_tokens as f64);
        let tokens = u64::from(ask.prompt_tokens) + u64::from(ask.outputs);
        let overfull = (demand.context_tokens + demand.output_tokens + tokens).saturating_sub(engine.facts.kv_tokens);
        Cost {
            decode: pace * outputs * fleet.costs.step(0.0, depth + 1.0),
            delays_by_decode: pace * shared_steps * fleet.costs.decode_us,
            // As long as others take to end and give theirs back: at least what their tokens took to compute.
            room: pace * overfull as f64 * fleet.costs.prefill_us,
            ..self
        }
    }

    fn total(&self) -> f64 {
        self.ttft + self.late + self.handoff + self.decode + self.delays_by_prefill + self.delays_by_decode + self.room
    }

    fn say(&self, engine: EngineId, terms: &mut impl Terms) {
        terms.term(engine, "ttft_us", self.ttft);
        terms.term(engine, "late_us", self.late);
        terms.term(engine, "handoff_us", self.handoff);
        terms.term(engine, "decode_us", self.decode);
        terms.term(engine, "delays_by_prefill_us", self.delays_by_prefill);
        terms.term(engine, "delays_by_decode_us", self.delays_by_decode);
        terms.term(engine, "room_us", self.room);
    }
}

/// The total, explained term by term where that was asked for.
fn weigh(fleet: &FleetView<'_>, engine: &EngineState, cost: Cost) -> f64 {
    if let Some(explanation) = fleet.explaining {
        cost.say(engine.id, &mut *explanation.borrow_mut());
    }
    cost.total()
}

/// From the last output of the prefill leg to the end, on an engine that takes the KV.
fn taking(fleet: &FleetView<'_>, ask: &Ask, from: EngineId, to: &EngineState) -> Cost {
    let handoff = fleet.handoff(from, to.id, fleet.uncached(to.id, ask.prompt_tokens.into())) + fleet.seat_wait(to);
    Cost { handoff, ..Cost::default() }.decode(fleet, ask, to)
}

impl Policy for PredictedLatency {
    fn wants_cached(&self) -> bool {
        true
    }

    fn place(&mut self, fleet: &FleetView<'_>, ask: &Ask) -> Option<Placement> {
        let start = self.turn.next();
        let whole = |engine: &EngineState| Cost::default().prefill(fleet, ask, engine).decode(fleet, ask, engine);
        if !fleet.in_pools() {
            return fleet
                .least(None, start, |engine| weigh(fleet, engine, whole(engine)))
                .map(|engine| Placement::Whole(engine.id));
        }
        // One decode engine stands for all: which one it will be is decided when the prefill is done.
        let aside = fleet.aside();
        let decode = |engine: &EngineState| Cost::default().decode(fleet, ask, engine).total();
        let taker = aside.least_taker(Role::Decode, start, decode).filter(|_| ask.outputs > 1);
        let taker_of =
            |engine: &EngineState| taker.filter(|to| engine.role == Role::Prefill && engine.moves_kv() && to.id != engine.id);
        let cost = |engine: &EngineState| match taker_of(engine) {
            Some(to) => weigh(fleet, engine, taking(fleet, ask, engine.id, to).prefill(fleet, ask, engine)),
            None => weigh(fleet, engine, whole(engine)),
        };
        let engine = fleet.least_where(|engine| engine.role != Role::Shared, start, cost)?;
        Some(if taker_of(engine).is_some() { Placement::Split(engine.id) } else { Placement::Whole(engine.id) })
    }

    fn decode_on(&mut self, fleet: &FleetView<'_>, ask: &Ask, from: EngineId) -> Option<EngineId> {
        let cost = |engine: &EngineState| weigh(fleet, engine, taking(fleet, ask, from, engine));
        fleet.least_taker(Role::Decode, self.turn.next(), cost).map(|engine| engine.id)
    }
}
