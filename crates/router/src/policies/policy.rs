//! What every policy can do: say where a request starts, and where it decodes once it is prefilled elsewhere.

use dualpool_types::{EngineId, Role};

use crate::fleet::{EngineState, FleetView};
use crate::placement::{Ask, Placement};

pub(crate) trait Policy: Send {
    /// Whether it looks at `FleetView::cached`. For a policy that does not, no prompt is looked up.
    fn wants_cached(&self) -> bool {
        false
    }

    /// Where the request starts. None only when no engine is alive.
    fn place(&mut self, fleet: &FleetView<'_>, ask: &Ask) -> Option<Placement>;

    /// Where a request that was prefilled on `from` by a `Placement::Split` decodes. None when no engine can take its KV: it stays.
    fn decode_on(&mut self, fleet: &FleetView<'_>, ask: &Ask, from: EngineId) -> Option<EngineId> {
        best_decoder(fleet, ask, from)
    }
}

/// The decode engine on which this request is soonest decoding: its KV copied there, and the next step with it over. An engine without
/// room for it comes last.
fn best_decoder(fleet: &FleetView<'_>, ask: &Ask, from: EngineId) -> Option<EngineId> {
    let tokens = u64::from(ask.prompt_tokens) + u64::from(ask.outputs);
    let score = |engine: &EngineState| {
        let taken = engine.demand.context_tokens + engine.demand.output_tokens + tokens;
        let overfull = taken.saturating_sub(engine.facts.kv_tokens) as f64;
        let prompt = engine.backlog().min(engine.chunk());
        // An engine does not load from itself: what its prefix cache does not have it computes again.
        let uncached = fleet.uncached(engine.id, ask.prompt_tokens.into());
        let there = if engine.id == from { uncached * fleet.costs.prefill_us } else { fleet.copy(from, engine.id, uncached) };
        let ready = there + fleet.seat_wait(engine);
        // What has no room waits until other requests end: as long as their prompt and output tokens take to compute, at least.
        ready + fleet.costs.step(prompt, engine.demand.depth() as f64) + overfull * fleet.costs.prefill_us
    };
    fleet.least_taker(Role::Decode, 0, score).map(|engine| engine.id)
}
