//! All engines alike, each with a small chunk for long prompts. Long prompts go where the fewest are being prefilled, so that no engine
//! takes two chunks per step; a short one goes where the next step will be shortest: each prefilling long prompt puts one chunk into
//! it, each short one its prompt, each decode one token.

use crate::fleet::{EngineState, FleetView};
use crate::placement::{Ask, Placement};

use super::policy::Policy;
use super::turn::Turn;

#[derive(Default)]
pub(super) struct Balanced {
    turn: Turn,
}

impl Policy for Balanced {
    fn place(&mut self, fleet: &FleetView<'_>, ask: &Ask) -> Option<Placement> {
        let start = self.turn.next();
        let next_step = |engine: &EngineState| {
            let demand = &engine.demand;
            let chunk = engine.chunk_of(f64::from(fleet.long_prompt_tokens_min));
            let shorts = (demand.prompt_tokens - demand.long_prompt_tokens) as f64;
            let prompt_tokens = demand.long_prefills as f64 * chunk + shorts;
            fleet.costs.prefill_us * prompt_tokens + fleet.costs.decode_us * demand.depth() as f64
        };
        let engine = if fleet.is_long(ask.prompt_tokens) {
            // A long prompt outweighs any number of decodes that fit beside it, hence the order of magnitude between the two.
            fleet.least(None, 0, |engine| engine.demand.long_prefills as f64 * 1e6 + engine.demand.depth() as f64)
        } else {
            fleet.least(None, start, next_step)
        };
        engine.map(|engine| Placement::Whole(engine.id))
    }
}
