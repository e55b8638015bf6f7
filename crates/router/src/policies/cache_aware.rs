//! All engines alike; a request goes where most of its prompt is cached, unless that engine is overloaded. Whether it is, is asked for
//! each request and of the engine that its own prefix is on: that one engine is overloaded takes no other request away from its cache.
//!
//! A request whose prefix no engine has goes where least load would send it; of equals to the one that was given the fewest prompt tokens
//! so far. Without that, all misses of a quiet fleet would go to its first engine, and all prefixes would come to be cached there.

use crate::explain::Terms;
use crate::fleet::{EngineState, FleetView};
use crate::placement::{Ask, Placement};
use crate::settings::CacheAwareSettings;

use super::policy::Policy;

pub(super) struct CacheAware {
    settings: CacheAwareSettings,
    /// By engine: prompt tokens sent there that it had to compute.
    sent: Vec<u64>,
}

/// Lowest first: less cached, more requests, more tokens so far, a higher index is worse. A lost device is worse than any of it.
type Rank = (bool, f64, u64, u64, u16);

impl CacheAware {
    pub(super) fn new(settings: &CacheAwareSettings) -> CacheAware {
        CacheAware { settings: *settings, sent: Vec::new() }
    }

    fn rank(&self, fleet: &FleetView<'_>, engine: &EngineState, score: f64) -> Rank {
        let sent = self.sent[engine.id.index()];
        (engine.device_lost(fleet.now), score, engine.demand.depth(), sent, engine.id.0)
    }

    fn least<'a>(&self, fleet: &FleetView<'a>, score: impl Fn(&EngineState) -> f64) -> Option<&'a EngineState> {
        let mut best: Option<(Rank, &EngineState)> = None;
        for engine in fleet.engines.iter().filter(|engine| engine.takes_work()) {
            let rank = self.rank(fleet, engine, score(engine));
            if best.is_none_or(|(lowest, _)| rank < lowest) {
                best = Some((rank, engine));
            }
        }
        best.map(|(_, engine)| engine)
    }

    /// Whether an engine has so much more to do than another one that a cached prefix is not worth the wait.
    fn imbalanced(&self, most: u64, least: u64) -> bool {
        let CacheAwareSettings { imbalance_abs, imbalance_rel, .. } = self.settings;
        most.saturating_sub(least) > imbalance_abs.into() && most as f64 > imbalance_rel * least as f64
    }

    fn says(&self, fleet: &FleetView<'_>, terms: &mut impl Terms, by_cache: bool, cached: impl Fn(&EngineState) -> f64) {
        for engine in fleet.engines.iter().filter(|engine| engine.takes_work()) {
            let (burden, sent) = (fleet.burden(engine), self.sent[engine.id.index()] as f64);
            terms.score(engine.id, if by_cache { -cached(engine) } else { burden });
            terms.term(engine.id, "cached", cached(engine));
            terms.term(engine.id, "queue_depth", engine.demand.depth() as f64);
            terms.term(engine.id, "demand_us", burden);
            terms.term(engine.id, "prompt_tokens_sent", sent);
        }
    }
}

impl Policy for CacheAware {
    fn wants_cached(&self) -> bool {
        true
    }

    fn place(&mut self, fleet: &FleetView<'_>, ask: &Ask) -> Option<Placement> {
        self.sent.resize(fleet.engines.len(), 0);
        let prompt = f64::from(ask.prompt_tokens);
        let cached = |engine: &EngineState| prompt - fleet.uncached(engine.id, prompt);
        let warmest = self.least(fleet, |engine| -cached(engine))?;
        let emptiest = self.least(fleet, |engine| fleet.burden(engine))?;
        let hit = cached(warmest) > 0.0 && cached(warmest) >= self.settings.match_min * prompt;
        let by_cache = hit && !self.imbalanced(warmest.demand.depth(), emptiest.demand.depth());
        if let Some(explanation) = fleet.explaining {
            self.says(fleet, &mut *explanation.borrow_mut(), by_cache, cached);
        }
        let chosen = if by_cache { warmest } else { emptiest };
        self.sent[chosen.id.index()] += fleet.uncached(chosen.id, prompt) as u64;
        Some(Placement::Whole(chosen.id))
    }
}
