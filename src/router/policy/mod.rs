//! The policies: where a request goes when it arrives, and where it decodes once it is prefilled. One file per policy; each decides
//! from a `FleetView` alone, in time linear in the engines and without allocating.
//!
//! Load comes from the router's own count, which is exact and never late. What devices say (`EngineState::device`) is late by up to a
//! sampling period, and everything that arrives within one period would chase the same reading; so it decides between engines whose
//! scores are equal, and against a device that is lost, and nothing else. A policy that weighs it must take none for "not known".

mod balanced;
mod dedicated;
mod dual_pool;
mod full_disaggregation;
mod least_load;
mod round_robin;

use crate::core::{EngineId, Objectives, Role};

use super::{FleetView, PolicyKind};

/// A request that needs a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// Prompt and all output tokens so far.
    pub prompt_tokens: u32,
    /// Output tokens to come.
    pub outputs: u32,
    pub objectives: Objectives,
}

/// A place for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// One engine does all of it.
    Whole(EngineId),
    /// This engine prefills; another one decodes, which is chosen when the prefill is done.
    Split(EngineId),
}

pub trait Policy: Send {
    /// Where the request starts. None only when no engine is alive.
    fn place(&mut self, fleet: &FleetView<'_>, ask: &Ask) -> Option<Plan>;

    /// Where a request that was prefilled on `from` by a `Plan::Split` decodes. None when no engine can take its KV: it stays.
    fn decode_on(&mut self, fleet: &FleetView<'_>, ask: &Ask, from: EngineId) -> Option<EngineId> {
        best_decoder(fleet, ask, from)
    }
}

pub fn build(kind: PolicyKind) -> Box<dyn Policy> {
    match kind {
        PolicyKind::RoundRobin => Box::<round_robin::RoundRobin>::default(),
        // It begins so, and chooses once it has seen requests.
        PolicyKind::LeastLoad | PolicyKind::Auto => Box::<least_load::LeastLoad>::default(),
        PolicyKind::Balanced => Box::<balanced::Balanced>::default(),
        PolicyKind::Dedicated => Box::<dedicated::Dedicated>::default(),
        PolicyKind::DualPool => Box::<dual_pool::DualPool>::default(),
        PolicyKind::FullDisaggregation => Box::<full_disaggregation::FullDisaggregation>::default(),
    }
}

/// Counts placements, so that equal engines take turns.
#[derive(Default)]
struct Turn(usize);

impl Turn {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(1);
        self.0 - 1
    }
}

/// The decode engine on which this request is soonest decoding: its KV copied there, and the next step with it over. An engine without
/// room for it comes last.
fn best_decoder(fleet: &FleetView<'_>, ask: &Ask, from: EngineId) -> Option<EngineId> {
    let tokens = u64::from(ask.prompt_tokens) + u64::from(ask.outputs);
    let score = |engine: &super::EngineState| {
        let taken = engine.load.context_tokens + engine.load.output_tokens + tokens;
        let overfull = taken.saturating_sub(engine.facts.kv_tokens) as f64;
        let prompt = engine.backlog().min(engine.chunk());
        // An engine does not load from itself: what its prefix cache does not have it computes again.
        let stays = f64::from(ask.prompt_tokens.saturating_sub(fleet.cached(engine.id)));
        let there =
            if engine.id == from { stays * fleet.costs.prefill_us } else { fleet.copy(from, engine.id, ask.prompt_tokens.into()) };
        let ready = there + fleet.seat_wait(engine);
        // What has no room waits until other requests end: as long as their prompt and output tokens take to compute, at least.
        ready + fleet.costs.step(prompt, engine.load.depth() as f64) + overfull * fleet.costs.prefill_us
    };
    fleet.least_taker(Role::Decode, 0, score).map(|engine| engine.id)
}
