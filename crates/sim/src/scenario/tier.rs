//! A tier: engines that are alike.

use serde::{Deserialize, Serialize};

use dualpool_model::Timing;
use dualpool_types::{Role, Tuning};

use super::error::require;
use super::{Scenario, ScenarioError};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    pub name: String,
    pub count: u32,
    /// What its engines are to policies that tell pools apart.
    pub role: Role,
    /// Of one engine, in whatever currency the user counts; left out, nothing is said of cost.
    #[serde(default)]
    pub cost_per_hour: Option<f64>,
    /// KV blocks of one engine.
    pub kv_blocks: u32,
    /// Requests that one step holds at most.
    pub max_num_seqs: u32,
    /// Tokens that one step processes at most.
    pub max_num_batched_tokens: u32,
    /// For its role: what holds where all engines are alike is the scenario's `shared_tuning`.
    #[serde(default)]
    pub tuning: Tuning,
    pub timing: TierTiming,
    pub link: Link,
}

/// What lies between other engines and one of this tier: KV that moves to it takes `latency_us` and its bytes at `gb_per_s`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub latency_us: f64,
    /// 10^9 bytes per second.
    pub gb_per_s: f64,
}

/// What a step costs, in microseconds. Every figure must be given but for what data sheets do not tell, which is nothing unless it is
/// given: a default of another machine would pass for this one's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierTiming {
    /// Any step.
    pub step_us: f64,
    /// A step that decodes anything, on top: the weights are read for few tokens.
    pub decode_step_us: f64,
    /// One decode in a step.
    pub decode_us: f64,
    /// One prompt token.
    pub prefill_us: f64,
    /// One token of context read by a decode.
    pub context_us: f64,
    /// One token of context read by a prompt token.
    #[serde(default)]
    pub attention_us: f64,
    /// From the sending of a leg to its engine and from a step's end to its tokens, together.
    #[serde(default)]
    pub round_trip_us: f64,
}

impl Tier {
    pub(super) fn check(&self, scenario: &Scenario) -> Result<(), ScenarioError> {
        let key = |name: &str| format!("tier `{}`: {name}", self.name);
        let counts = [
            ("count", self.count),
            ("kv_blocks", self.kv_blocks),
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
        ];
        for (name, value) in counts {
            require(scenario, &key(name), value, value > 0, "at least 1")?;
        }
        for (name, value) in self.timing.figures() {
            require(scenario, &key(name), value, value.is_finite() && value >= 0.0, "microseconds, at least 0")?;
        }
        let prefill = self.timing.prefill_us;
        require(scenario, &key("timing.prefill_us"), prefill, prefill > 0.0, "over 0: no engine computes for nothing")?;
        let Link { latency_us, gb_per_s } = self.link;
        let finite = latency_us.is_finite() && latency_us >= 0.0;
        require(scenario, &key("link.latency_us"), latency_us, finite, "microseconds, at least 0")?;
        require(scenario, &key("link.gb_per_s"), gb_per_s, gb_per_s.is_finite() && gb_per_s > 0.0, "a number over 0")?;
        let cost = self.cost_per_hour.unwrap_or(0.0);
        require(scenario, &key("cost_per_hour"), cost, cost.is_finite() && cost >= 0.0, "at least 0; leave it out if not known")?;
        let most = self.max_num_batched_tokens;
        for (name, tuning) in
            [(key("tuning.max_num_batched_tokens"), self.tuning), ("shared_tuning".into(), scenario.shared_tuning)]
        {
            let tuned = tuning.max_num_batched_tokens.unwrap_or(most);
            let expected = format!("from 1 to {most}, the max_num_batched_tokens of tier `{}`", self.name);
            require(scenario, &name, tuned, (1..=most).contains(&tuned), expected)?;
        }
        let tokens = u64::from(self.kv_blocks) * u64::from(scenario.model.block_size);
        let expected = format!("at least {} blocks, for one request of model.max_model_len", {
            scenario.model.max_model_len.div_ceil(scenario.model.block_size)
        });
        require(scenario, &key("kv_blocks"), self.kv_blocks, tokens >= scenario.model.max_model_len.into(), expected)
    }

    /// With decodes that cost `penalty` times as much.
    pub(super) fn timing(&self, kv_bytes_per_token: u64, penalty: f64) -> Timing {
        let TierTiming { step_us, decode_step_us, decode_us, prefill_us, context_us, attention_us, round_trip_us } = self.timing;
        Timing {
            step_us,
            decode_step_us: decode_step_us * penalty,
            decode_us: decode_us * penalty,
            prefill_us,
            context_us: context_us * penalty,
            attention_us,
            round_trip_us,
            copy_us: self.link.latency_us,
            copy_us_per_token: kv_bytes_per_token as f64 / (self.link.gb_per_s * 1e3),
        }
    }
}

impl TierTiming {
    fn figures(&self) -> [(&'static str, f64); 7] {
        [
            ("timing.step_us", self.step_us),
            ("timing.decode_step_us", self.decode_step_us),
            ("timing.decode_us", self.decode_us),
            ("timing.prefill_us", self.prefill_us),
            ("timing.context_us", self.context_us),
            ("timing.attention_us", self.attention_us),
            ("timing.round_trip_us", self.round_trip_us),
        ]
    }
}
