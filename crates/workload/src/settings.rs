//! Which requests a benchmark serves, and what they ask for.

use serde::{Deserialize, Serialize};

use dualpool_types::{Class, Micros, Objectives};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mix {
    /// A burst of long prompts among chats: `prefill_burst` long and `decode_requests + continue_requests` short ones.
    Balanced,
    /// Short prompts with long answers, a long prompt now and then.
    DecodeHeavy,
    /// Very long prompts among chats: two to four times `long_prompt_tokens`, but not over 4096 tokens unless that is longer itself.
    LongContext,
    /// Long prompts that arrive in clumps.
    Burst,
    /// `Balanced`, then `LongContext`, then `DecodeHeavy`: requests that change twice what they ask of a fleet.
    Changing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    AllUpfront,
    Poisson,
}

/// The requests of one repetition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkloadSettings {
    pub mix: Mix,
    pub arrivals: Arrivals,
    /// Offered load as a share of the measured saturation; used when `rate` is 0.
    pub load: f64,
    /// Offered requests per second; 0 = derive it from `load`.
    pub rate: f64,
    pub long_prompt_tokens: u32,
    pub short_prompt_tokens: u32,
    pub prefill_burst: u32,
    pub decode_requests: u32,
    pub continue_requests: u32,
    pub max_tokens: u32,
    pub seed: u64,
}

impl Default for WorkloadSettings {
    fn default() -> Self {
        WorkloadSettings {
            mix: Mix::Balanced,
            arrivals: Arrivals::Poisson,
            load: 0.7,
            rate: 0.0,
            long_prompt_tokens: 1024,
            short_prompt_tokens: 64,
            prefill_burst: 12,
            decode_requests: 48,
            continue_requests: 48,
            max_tokens: 32,
            seed: 1,
        }
    }
}

/// What counts as good service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveSettings {
    /// After any prompt; 0 = by the prompt's length, as below.
    pub ttft_ms: f64,
    pub ttft_short_ms: f64,
    pub ttft_long_ms: f64,
    pub itl_ms: f64,
}

impl Default for ObjectiveSettings {
    fn default() -> Self {
        ObjectiveSettings { ttft_ms: 0.0, ttft_short_ms: 500.0, ttft_long_ms: 3000.0, itl_ms: 200.0 }
    }
}

impl ObjectiveSettings {
    /// What a request of this class asks for.
    pub fn of(&self, class: Class) -> Objectives {
        Objectives { ttft_us_max: Micros::from_ms(self.ttft_ms_of(class)), itl_us_max: Micros::from_ms(self.itl_ms) }
    }

    /// TTFT after a prompt of this class.
    pub fn ttft_ms_of(&self, class: Class) -> f64 {
        match class {
            _ if self.ttft_ms > 0.0 => self.ttft_ms,
            Class::Short => self.ttft_short_ms,
            Class::Long => self.ttft_long_ms,
        }
    }
}
