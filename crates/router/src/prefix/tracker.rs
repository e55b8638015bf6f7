//! What the router believes of the engines' prefix caches, and when it comes to believe it.
//!
//! An engine has the prompt's blocks from the leg's first token on, and those of the outputs when the leg is over. What it reports of
//! prompt tokens that it found cached corrects what was believed.

use dualpool_types::EngineId;

use crate::fleet::EngineState;
use crate::settings::{PrefixSettings, PrefixTracking};

use super::chain::{Chain, Tokens};
use super::index::{CacheShape, PrefixIndex};

/// What a request consists of by now, with the names of its prefixes as far as they were needed.
#[derive(Debug)]
pub(crate) struct Named<'a> {
    pub(crate) chain: &'a mut Chain,
    pub(crate) tokens: Tokens<'a>,
    /// Tokens that it will consist of, at most.
    pub(crate) tokens_max: u32,
}

impl<'a> Named<'a> {
    fn within(self, index: &PrefixIndex) -> (&'a mut Chain, Tokens<'a>) {
        if self.chain.is_off() {
            *self.chain = index.chain(self.tokens_max);
        }
        (self.chain, self.tokens)
    }
}

pub(crate) struct PrefixTracker {
    settings: PrefixSettings,
    /// None while caches are not followed.
    index: Option<PrefixIndex>,
    /// By engine: what was found cached of the prompt that was looked up last; kept for its memory.
    cached: Vec<u32>,
}

impl PrefixTracker {
    pub(crate) fn new(settings: &PrefixSettings, engines: usize) -> PrefixTracker {
        PrefixTracker { settings: settings.clone(), index: None, cached: vec![0; engines] }
    }

    /// Begins to follow the caches, or ceases to, as the policy and the settings ask.
    pub(crate) fn follow(&mut self, engines: &[EngineState], wanted_by_policy: bool) {
        let wanted = match self.settings.track {
            PrefixTracking::Auto => wanted_by_policy,
            PrefixTracking::Always => true,
            PrefixTracking::Never => false,
        };
        if !wanted {
            self.index = None;
        } else if self.index.is_none() {
            let shape = |engine: &EngineState| CacheShape {
                block_tokens: engine.facts.prefix_block_tokens,
                kv_tokens: engine.facts.kv_tokens,
            };
            let shapes: Vec<CacheShape> = engines.iter().map(shape).collect();
            self.index = Some(PrefixIndex::new(&shapes, self.settings.block_tokens, self.settings.blocks_max));
        }
    }

    /// None while caches are not followed.
    pub(crate) fn index(&self) -> Option<&PrefixIndex> {
        self.index.as_ref()
    }

    /// Tokens of the request that each engine need not compute, by engine; empty while caches are not followed.
    pub(crate) fn look_up(&mut self, request: Named<'_>) -> &[u32] {
        let Some(index) = &self.index else { return &[] };
        let (chain, tokens) = request.within(index);
        index.cached(chain, tokens, &mut self.cached);
        &self.cached
    }

    /// The same for a prompt of no request, as far as its names can be put into `chain`.
    pub(crate) fn look_up_prompt(&mut self, chain: &mut Chain, tokens: Tokens<'_>) -> &[u32] {
        let Some(index) = &self.index else { return &[] };
        index.cached(chain, tokens, &mut self.cached);
        &self.cached
    }

    /// Tokens that the engine need not compute of what is sent to it now.
    pub(crate) fn cached_on(&self, engine: EngineId, request: Named<'_>) -> u32 {
        let Some(index) = &self.index else { return 0 };
        let (chain, tokens) = request.within(index);
        index.cached_on(engine, chain, tokens)
    }

    /// The engine has the KV of the request's first so many tokens. All of them are named now, if they were not for a decision.
    pub(crate) fn used(&mut self, engine: EngineId, request: Named<'_>, tokens: u32) {
        let Some(index) = &mut self.index else { return };
        let (chain, all) = request.within(index);
        chain.extend(all);
        index.used(engine, chain, tokens);
    }

    /// The engine found only so many tokens cached of those that it was believed to have.
    pub(crate) fn missing_from(&mut self, engine: EngineId, chain: &Chain, cached: u32) {
        if let Some(index) = &mut self.index {
            index.missing_from(engine, chain, cached);
        }
    }

    /// The engine's cache is empty.
    pub(crate) fn gone(&mut self, engine: EngineId) {
        if let Some(index) = &mut self.index {
            index.clear(engine);
        }
    }
}
