//! What the scoring policies weigh, and by how much.

use serde::{Deserialize, Serialize};

/// Weights of the terms of policy `score`. Each term is between 0 and 1, so a weight is the most that a term can say; 0 silences it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreSettings {
    /// In favour of an engine: a short time to the first token,
    pub ttft: f64,
    /// short gaps between tokens,
    pub itl: f64,
    /// prompt tokens per second,
    pub prefill_rate: f64,
    /// output tokens per second,
    pub decode_rate: f64,
    /// room in the KV cache,
    pub memory: f64,
    /// and the share of the prompt that is in its prefix cache.
    pub locality: f64,
    /// Against it: the work that was sent there and is not done,
    pub queue: f64,
    /// the share of the request's TTFT objective that would be used up there,
    pub urgency: f64,
    /// the time in which the KV gets from the prefill to the decode engine,
    pub handoff: f64,
    /// and what the engine costs per hour.
    pub cost: f64,
    /// How far the choice strays from the best candidate: 0 takes the best one; at 1 the worst is still chosen 0.37 times as often.
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

/// When policy `cache_aware` goes by load, though an engine has the prompt in its cache.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheAwareSettings {
    /// Share of the prompt from which on a cached prefix counts.
    pub match_min: f64,
    /// The engine with the prefix is overloaded when it has this many requests more than the emptiest one,
    pub imbalance_abs: u32,
    /// and this many times as many.
    pub imbalance_rel: f64,
}

impl Default for CacheAwareSettings {
    fn default() -> Self {
        CacheAwareSettings { match_min: 0.25, imbalance_abs: 8, imbalance_rel: 1.5 }
    }
}
