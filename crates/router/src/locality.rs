//! What the router believes of the engines' prefix caches, and when it comes to believe it.
//!
//! An engine has the prompt's blocks from the leg's first token on, and those of the outputs when the leg is over. What it reports of
//! prompt tokens that it found cached corrects both the index and the demand that the leg was counted with.

use dualpool_types::{EngineId, LegId, TokenId};

use super::Router;
use super::flight::{Flight, Journey};
use super::policy::{Ask, Placement};
use super::prefix::{CacheShape, Chain, PrefixIndex, Tokens};
use crate::PrefixTracking;

impl Router {
    /// Begins to follow the caches, or ceases to, as the policy and the settings ask.
    pub(super) fn track_prefixes(&mut self) {
        let settings = &self.settings.prefix;
        let wanted = match settings.track {
            PrefixTracking::Auto => self.policy.wants_cached(),
            PrefixTracking::Always => true,
            PrefixTracking::Never => false,
        };
        if !wanted {
            self.prefix = None;
        } else if self.prefix.is_none() {
            let shape = |engine: &super::EngineState| CacheShape {
                block_tokens: engine.facts.prefix_block_tokens,
                kv_tokens: engine.facts.kv_tokens,
            };
            let shapes: Vec<CacheShape> = self.engines.iter().map(shape).collect();
            self.prefix = Some(PrefixIndex::new(&shapes, settings.block_tokens, settings.blocks_max));
        }
    }

    /// What the engines are believed to have cached. None while nobody asks.
    pub fn prefixes(&self) -> Option<&PrefixIndex> {
        self.prefix.as_ref()
    }

    /// Looks the request up for the decision that comes next.
    pub(super) fn look_up(&mut self, journey: &mut Journey) {
        let Some(prefix) = &self.prefix else { return };
        let (chain, tokens) = so_far(prefix, journey);
        prefix.cached(chain, tokens, &mut self.cached);
    }

    /// Where a request with this prompt goes. `chain` is empty, and names afterwards what was asked for of the prompt; it comes from
    /// `PrefixIndex::chain`, or is the default one while nobody asks for caches.
    pub fn decide_for(&mut self, ask: &Ask, prompt: &[TokenId], chain: &mut Chain) -> Option<Placement> {
        if let Some(prefix) = &self.prefix {
            prefix.cached(chain, Tokens { prompt, outputs: &[] }, &mut self.cached);
        }
        self.decide(ask)
    }

    /// With a leg's first output its engine says how many prompt tokens it found cached. What it computed instead, or need not compute
    /// after all, is put right before the leg counts as started.
    pub(super) fn prefix_reported(&mut self, leg: LegId, cached_tokens: Option<u32>) {
        let (Some(prefix), Some(cached)) = (&mut self.prefix, cached_tokens) else { return };
        let Some(Flight { journey, stay, .. }) = self.flights.get_mut(&leg.request).filter(|flight| flight.stay.leg == leg) else {
            return;
        };
        // Tokens that were loaded from another engine count as cached, and say nothing of this engine's cache.
        if stay.demand.started || stay.loading.is_some() {
            return;
        }
        let cached = cached.min(stay.demand.context);
        if cached < stay.believed {
            prefix.missing_from(stay.engine, &journey.chain, cached);
        }
        let demand = &mut self.engines[stay.engine.index()].demand;
        demand.leave(&stay.demand);
        stay.demand.prefill = stay.demand.context - cached;
        stay.demand.long = stay.demand.prefill >= self.long_prompt_tokens_min;
        demand.enter(&stay.demand);
    }

    /// A leg is over: its engine has the KV of all tokens but the last one, which nothing has been computed from.
    pub(super) fn prefix_left(&mut self, Flight { journey, stay, .. }: &mut Flight) {
        let Some(prefix) = &mut self.prefix else { return };
        if stay.demand.started && self.engines[stay.engine.index()].alive {
            let context = journey.ask().prompt_tokens;
            used(prefix, stay.engine, journey, context - 1);
        }
    }

    pub(super) fn prefixes_gone(&mut self, engine: EngineId) {
        if let Some(prefix) = &mut self.prefix {
            prefix.clear(engine);
        }
    }
}

/// The request's names and what it consists of by now.
fn so_far<'a>(prefix: &PrefixIndex, journey: &'a mut Journey) -> (&'a mut Chain, Tokens<'a>) {
    let Journey { request, tokens, chain, .. } = journey;
    if chain.is_off() {
        *chain = prefix.chain(request.prompt_tokens().saturating_add(request.max_tokens));
    }
    (chain, Tokens { prompt: &request.prompt, outputs: tokens })
}

/// Tokens that the engine need not compute of what is sent to it now.
pub(super) fn cached_on(prefix: Option<&PrefixIndex>, engine: EngineId, journey: &mut Journey) -> u32 {
    let Some(prefix) = prefix else { return 0 };
    let (chain, tokens) = so_far(prefix, journey);
    prefix.cached_on(engine, chain, tokens)
}

/// The engine has the KV of the request's first so many tokens. All of them are named now, if they were not for the decision.
pub(super) fn used(prefix: &mut PrefixIndex, engine: EngineId, journey: &mut Journey, tokens: u32) {
    let (chain, all) = so_far(prefix, journey);
    chain.extend(all);
    prefix.used(engine, chain, tokens);
}
