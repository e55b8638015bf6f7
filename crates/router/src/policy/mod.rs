//! The policies: where a request goes when it arrives, and where it decodes once it is prefilled. One file per policy; each decides
//! from a `FleetView` and what it remembers itself, in time linear in the engines and without allocating.
//!
//! Demand comes from the router's own count, which is exact and never late. What devices say (`EngineState::device`) is late by up to a
//! sampling period, and everything that arrives within one period would chase the same reading; so it decides between engines whose
//! scores are equal, and against a device that is lost, and nothing else. A policy that weighs it must take none for "not known".

mod balanced;
mod cache_aware;
mod dedicated;
mod dual_pool;
mod full_disaggregation;
mod least_load;
mod power_of_two;
mod predicted_latency;
mod round_robin;
mod score;

use dualpool_types::{EngineId, Objectives, PolicyKind, Role, split_mix};

use super::FleetView;
use crate::RouterSettings;

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
pub enum Placement {
    /// One engine does all of it.
    Whole(EngineId),
    /// This engine prefills; another one decodes, which is chosen when the prefill is done.
    Split(EngineId),
}

pub trait Policy: Send {
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

/// A policy that has decided nothing yet.
pub fn build(kind: PolicyKind, settings: &RouterSettings) -> Box<dyn Policy> {
    match kind {
        PolicyKind::RoundRobin => Box::<round_robin::RoundRobin>::default(),
        // It begins so, and chooses once it has seen requests.
        PolicyKind::LeastLoad | PolicyKind::Auto => Box::<least_load::LeastLoad>::default(),
        PolicyKind::PowerOfTwo => Box::new(power_of_two::PowerOfTwo::new(settings.seed)),
        PolicyKind::CacheAware => Box::new(cache_aware::CacheAware::new(&settings.cache_aware)),
        PolicyKind::Score => Box::new(score::Score::new(&settings.score, settings.seed)),
        PolicyKind::PredictedLatency => Box::<predicted_latency::PredictedLatency>::default(),
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

/// A policy's own random numbers: what it draws changes nobody else's.
struct Draws(u64);

impl Draws {
    fn new(seed: u64, policy: PolicyKind) -> Draws {
        Draws(xxhash_rust::xxh3::xxh3_64_with_seed(policy.name().as_bytes(), seed))
    }

    /// A number below `count`, each with the same probability (but for less than `count / 2^32`).
    fn below(&mut self, count: usize) -> usize {
        (((split_mix(&mut self.0) >> 32) * count as u64) >> 32) as usize
    }

    /// A number from 0 to 1, without 1.
    fn share(&mut self) -> f64 {
        (split_mix(&mut self.0) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The decode engine on which this request is soonest decoding: its KV copied there, and the next step with it over. An engine without
/// room for it comes last.
fn best_decoder(fleet: &FleetView<'_>, ask: &Ask, from: EngineId) -> Option<EngineId> {
    let tokens = u64::from(ask.prompt_tokens) + u64::from(ask.outputs);
    let score = |engine: &super::EngineState| {
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
