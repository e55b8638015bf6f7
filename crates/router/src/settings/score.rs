//! What the scoring policies weigh, and by how much.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::settings::{Rule, Section, not_negative, rule, share};

/// Weights of policy `score`; docs/routing.md explains it. Each term is between 0 and 1, so a weight is the most that its term can
/// add or subtract, and 0 switches the term off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreSettings {
    /// Weight in favour of an engine on which this prompt is expected to get its first token soon (from observed first tokens,
    /// scaled to the uncached length of this prompt).
    pub ttft: f64,
    /// Weight in favour of an engine with short gaps between tokens (1 / observed ITL).
    pub itl: f64,
    /// Weight in favour of an engine with many prompt tokens per second while it computes any.
    pub prefill_rate: f64,
    /// Weight in favour of an engine with many output tokens per second while it decodes.
    pub decode_rate: f64,
    /// Weight in favour of an engine with free KV cache, in tokens.
    pub memory: f64,
    /// Weight in favour of an engine that has a large share of this prompt in its prefix cache.
    pub locality: f64,
    /// Weight against an engine with much work that was sent to it and is not done, as the predicted time to do it.
    pub queue: f64,
    /// Weight against an engine on which the predicted TTFT uses up a large share of the request's TTFT objective.
    pub urgency: f64,
    /// Weight against a pair of engines between which this request's KV takes long to copy. Only with two pools.
    pub handoff: f64,
    /// Weight against an engine that costs much per hour (`router.cost_per_hour`).
    pub cost: f64,
    /// Randomness of the choice. 0 takes the best engine. Above 0 an engine is drawn with odds exp(-x / temperature), where x is 0
    /// for the best and 1 for the worst candidate; at 1 the worst is drawn 0.37 times as often as the best.
    pub temperature: f64,
}

impl Default for ScoreSettings {
    fn default() -> Self {
        ScoreSettings {
            ttft: 0.1,
            itl: 0.1,
            prefill_rate: 0.05,
            decode_rate: 0.05,
            memory: 0.1,
            locality: 1.0,
            queue: 1.0,
            urgency: 1.0,
            handoff: 0.2,
            cost: 0.0,
            temperature: 0.0,
        }
    }
}

impl ScoreSettings {
    /// The weight of a term by its name in decisions; negative for what speaks against an engine. None when there is no such term.
    pub fn weight(&self, term: &str) -> Option<f64> {
        Some(match term {
            "ttft" => self.ttft,
            "itl" => self.itl,
            "prefill_rate" => self.prefill_rate,
            "decode_rate" => self.decode_rate,
            "memory" => self.memory,
            "locality" => self.locality,
            "queue" => -self.queue,
            "urgency" => -self.urgency,
            "handoff" => -self.handoff,
            "cost" => -self.cost,
            _ => return None,
        })
    }
}

/// When policy `cache_aware` passes over an engine that has the prompt in its cache.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheAwareSettings {
    /// Smallest share of a prompt that must be cached on an engine for the cache to decide. Below it the engine with the least
    /// demand gets the request.
    pub match_min: f64,
    /// The engine with the longest cached prefix is passed over when it has more than this number of requests above those of the
    /// engine with the least demand, and also more than `imbalance_rel` times as many.
    pub imbalance_abs: u32,
    /// The engine with the longest cached prefix is passed over when it has more than this many times the requests of the engine
    /// with the least demand, and also more than `imbalance_abs` requests above it.
    pub imbalance_rel: f64,
}

impl Default for CacheAwareSettings {
    fn default() -> Self {
        CacheAwareSettings { match_min: 0.25, imbalance_abs: 8, imbalance_rel: 1.5 }
    }
}

impl Section for ScoreSettings {
    fn rules(&self) -> Vec<Rule> {
        vec![
            not_negative("router.score.ttft", self.ttft),
            not_negative("router.score.itl", self.itl),
            not_negative("router.score.prefill_rate", self.prefill_rate),
            not_negative("router.score.decode_rate", self.decode_rate),
            not_negative("router.score.memory", self.memory),
            not_negative("router.score.locality", self.locality),
            not_negative("router.score.queue", self.queue),
            not_negative("router.score.urgency", self.urgency),
            not_negative("router.score.handoff", self.handoff),
            not_negative("router.score.cost", self.cost),
            not_negative("router.score.temperature", self.temperature),
        ]
    }
}

impl Section for CacheAwareSettings {
    fn rules(&self) -> Vec<Rule> {
        let rel = self.imbalance_rel;
        vec![
            share("router.cache_aware.match_min", self.match_min),
            rule("router.cache_aware.imbalance_rel", "a number of at least 1", rel >= 1.0 && rel.is_finite()),
        ]
    }
}
