//! Conditional disaggregation. The floor is a plain rule: long prompts prefill in the prefill pool and are handed off, short ones live in the
//! decode pool. Where caches are followed (it does not ask for that), what the decode engine has of a prompt makes it shorter. The rule is
//! departed from only on a prediction:
//!
//! - a short prompt prefills in the prefill pool and is handed off when that gives its first token sooner (nothing much is there, and other
//!   shorts wait on the decode engine), and the gap that the hand-off makes is well within its ITL objective;
//! - it does so too when the decode engine would break an objective with it and the prefill engine would keep it;
//! - a long prompt runs whole on a decode engine when it would miss its TTFT objective in the prefill queue, would keep it there, what
//!   decodes there keeps its ITL, and its chunk leaves room for the prompts and the hand-offs that come there;
//! - a long prompt stays on its prefill engine when nothing else is there, that ends it sooner than a hand-off would, and even the longest
//!   step of that engine is within its ITL objective and no longer than the decode engine's: the next long prompt will come.

use dualpool_types::Role;

use crate::fleet::{EngineState, FleetView};
use crate::placement::{Ask, Placement};

use super::policy::Policy;
use super::turn::Turn;

/// A departure from the floor must be predicted to keep this share of the objective that the floor would break.
const ROOM_TO_SPARE: f64 = 0.8;

#[derive(Default)]
pub(super) struct DualPool {
    turn: Turn,
}

impl Policy for DualPool {
    fn place(&mut self, fleet: &FleetView<'_>, ask: &Ask) -> Option<Placement> {
        let start = self.turn.next();
        let prompt = f64::from(ask.prompt_tokens);
        let prefill = fleet.least(Some(Role::Prefill), start, |engine| fleet.ttft(engine, prompt));
        let decode = fleet.least(Some(Role::Decode), start, |engine| fleet.ttft(engine, prompt));
        match (prefill, decode) {
            // A prompt is as long as what the decode engine would have to compute of it.
            (Some(prefill), Some(decode)) if fleet.is_long(fleet.uncached(decode.id, prompt) as u32) => {
                Some(long(fleet, ask, prefill, decode))
            }
            (Some(prefill), Some(decode)) => Some(short(fleet, ask, prefill, decode)),
            // A pool has no engine alive: any engine that is left serves whole requests.
            _ => fleet.least(None, start, |engine| fleet.ttft(engine, prompt)).map(|engine| Placement::Whole(engine.id)),
        }
    }
}

fn long(fleet: &FleetView<'_>, ask: &Ask, prefill: &EngineState, decode: &EngineState) -> Placement {
    let (floor, prompt) = (Placement::Split(prefill.id), f64::from(ask.prompt_tokens));
    let (ttft_max, itl_max) = (ask.objectives.ttft_us_max.0 as f64, ask.objectives.itl_us_max.0 as f64);
    if prefill.demand.depth() == 0 {
        let outputs = f64::from(ask.outputs.saturating_sub(1));
        let stay = outputs * fleet.costs.step(0.0, 1.0);
        let go = fleet.handoff(prefill.id, decode.id, fleet.uncached(decode.id, prompt))
            + outputs * fleet.costs.step(0.0, decode.demand.depth() as f64 + 1.0);
        let longest_step = |engine: &EngineState| fleet.costs.step(engine.batched_tokens(), 1.0);
        let calm = longest_step(prefill) <= itl_max.min(longest_step(decode));
        return if stay < go && calm { Placement::Whole(prefill.id) } else { floor };
    }
    let late = fleet.ttft(prefill, prompt) > ttft_max;
    let sooner = fleet.ttft(decode, prompt) <= ttft_max * ROOM_TO_SPARE;
    let calm = fleet.step_beside(decode, prompt) <= itl_max.min(decode.itl_objective()) * ROOM_TO_SPARE;
    let leaves_room =
        decode.demand.long_prefills == 0 && 2.0 * decode.chunk_of(fleet.uncached(decode.id, prompt)) <= decode.chunk();
    if late && sooner && calm && leaves_room { Placement::Whole(decode.id) } else { floor }
}

fn short(fleet: &FleetView<'_>, ask: &Ask, prefill: &EngineState, decode: &EngineState) -> Placement {
    let (floor, elsewhere, prompt) = (Placement::Whole(decode.id), Placement::Split(prefill.id), f64::from(ask.prompt_tokens));
    let (ttft_max, itl_max) = (ask.objectives.ttft_us_max.0 as f64, ask.objectives.itl_us_max.0 as f64);
    let (ttft, ttft_elsewhere) = (fleet.ttft(decode, prompt), fleet.ttft(prefill, prompt));
    // On an engine that only prefills, no request's ITL suffers; one on which requests stayed is judged like a decode engine.
    if prefill.demand.running > 0 && fleet.step_beside(prefill, prompt) > prefill.itl_objective() * ROOM_TO_SPARE {
        return floor;
    }
    let jolt = decode.demand.running > 0 && fleet.step_beside(decode, prompt) > itl_max.min(decode.itl_objective());
    if ttft > ttft_max || jolt {
        return if ttft_elsewhere <= ttft_max * ROOM_TO_SPARE { elsewhere } else { floor };
    }
    let handoff = fleet.handoff(prefill.id, decode.id, fleet.uncached(decode.id, prompt));
    let calm = handoff + decode.joining(fleet.costs, decode.demand.running as f64 + 1.0) <= itl_max * ROOM_TO_SPARE;
    if calm && ttft_elsewhere + handoff < ttft { elsewhere } else { floor }
}
