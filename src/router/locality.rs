//! What the router believes of the engines' prefix caches, and when it comes to believe it.
//!
//! An engine has the prompt's blocks from the leg's first token on, and those of the outputs when the leg is over. What it reports of
//! prompt tokens that it found cached corrects both the index and the load that the leg was counted with.

use crate::config::PrefixTracking;
use crate::core::{EngineId, LegId, TokenId};

use super::Router;
use super::flight::{Flight, Journey};
use super::policy::{Ask, Plan};
use super::prefix::{CacheShape, Chain, PrefixIndex};

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
        name(prefix, journey);
        prefix.cached(&journey.chain, journey.ask().prompt_tokens, &mut self.cached);
    }

    /// Where a request with this prompt goes. `chain` is empty, and names the prompt afterwards; it comes from `PrefixIndex::chain`, or is
    /// the default one while nobody asks for caches.
    pub fn decide_for(&mut self, ask: &Ask, prompt: &[TokenId], chain: &mut Chain) -> Option<Plan> {
        if let Some(prefix) = &self.prefix {
            chain.extend(prompt, &[]);
            prefix.cached(chain, ask.prompt_tokens, &mut self.cached);
        }
        self.decide(ask)
    }

    /// Tokens that the engine need not compute of what is sent to it now.
    pub(super) fn cached_on(&self, engine: EngineId, journey: &mut Journey) -> u32 {
        let Some(prefix) = &self.prefix else { return 0 };
        name(prefix, journey);
        prefix.cached_on(engine, &journey.chain, journey.ask().prompt_tokens)
    }

    /// With a leg's first output its engine says how many prompt tokens it found cached. What it computed instead, or need not compute
    /// after all, is put right before the leg counts as started.
    pub(super) fn prefix_reported(&mut self, leg: LegId, cached_tokens: Option<u32>) {
        let (Some(prefix), Some(cached)) = (&mut self.prefix, cached_tokens) else { return };
        let Some(Flight { journey, stay, .. }) = self.flights.get_mut(&leg.request).filter(|flight| flight.stay.leg == leg) else {
            return;
        };
        // Tokens that were loaded from another engine count as cached, and say nothing of this engine's cache.
        if stay.load.started || stay.loading.is_some() {
            return;
        }
        let cached = cached.min(stay.load.context);
        if cached < stay.believed {
            prefix.missing_from(stay.engine, &journey.chain, cached);
        }
        let load = &mut self.engines[stay.engine.index()].load;
        load.leave(&stay.load);
        stay.load.prefill = stay.load.context - cached;
        stay.load.long = stay.load.prefill >= self.long_prompt_tokens_min;
        load.enter(&stay.load);
    }

    /// A leg is over: its engine has the KV of all tokens but the last one, which nothing has been computed from.
    pub(super) fn prefix_left(&mut self, Flight { journey, stay, .. }: &mut Flight) {
        let Some(prefix) = &mut self.prefix else { return };
        if stay.load.started && self.engines[stay.engine.index()].alive {
            journey.chain.extend(&journey.request.prompt, &journey.tokens);
            prefix.used(stay.engine, &journey.chain, journey.ask().prompt_tokens - 1);
        }
    }

    pub(super) fn prefixes_gone(&mut self, engine: EngineId) {
        if let Some(prefix) = &mut self.prefix {
            prefix.clear(engine);
        }
    }
}

/// Names what the request consists of by now.
fn name(prefix: &PrefixIndex, journey: &mut Journey) {
    let Journey { request, tokens, chain, .. } = journey;
    if chain.is_off() {
        *chain = prefix.chain(request.prompt_tokens().saturating_add(request.max_tokens));
    }
    chain.extend(&request.prompt, tokens);
}
