//! Which requests a benchmark serves, and what they ask for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::settings::{Problem, Rule, Section, count, is_not_negative, is_positive, positive, require, rule};
use dualpool_types::{Class, Micros, Objectives};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    AllUpfront,
    Poisson,
}

/// The requests of one repetition of `dual_pool`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkloadSettings {
    /// Mix of requests: `balanced` (`prefill_burst` long prompts among `decode_requests + continue_requests` short ones),
    /// `decode_heavy` (a third of the long and five eighths of the short prompts, four times the output), `long_context` (a third
    /// of the long and three quarters of the short prompts; long ones of two to four times `long_prompt_tokens`, up to 4096 tokens
    /// or `long_prompt_tokens` if that is more), `burst` (as `balanced`, long prompts arriving in groups of a third), or `changing`
    /// (`balanced`, `long_context`, `decode_heavy` in turn).
    pub mix: Mix,
    /// How requests arrive: `poisson` at the offered rate, or `all_upfront`, all at once. The workloads of `dynamic_router` have
    /// arrivals of their own.
    pub arrivals: Arrivals,
    /// Offered load as a share of the measured saturation rate. Used when `workload.rate` is 0.
    pub load: f64,
    /// Offered load in requests per second, in place of a measured one. 0 = `workload.load` times the measured saturation rate.
    pub rate: f64,
    /// Length of a long prompt, in tokens.
    pub long_prompt_tokens: u32,
    /// Length of a short prompt, in tokens.
    pub short_prompt_tokens: u32,
    /// Number of requests with a long prompt.
    pub prefill_burst: u32,
    /// Number of requests with a short prompt; `continue_requests` are added to them.
    pub decode_requests: u32,
    /// Number of further requests with a short prompt, of the same kind as those of `decode_requests`.
    pub continue_requests: u32,
    /// Output tokens of each request. Every request makes exactly as many.
    pub max_tokens: u32,
    /// Seed of the requests, their arrival times, the search's trials, the bootstrap, and the plans of `migration_cost`. Every
    /// repetition derives a seed of its own from it.
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveSettings {
    /// TTFT objective of all requests, in milliseconds from arrival to first token. 0 = by the prompt's class, `ttft_short_ms` or
    /// `ttft_long_ms`.
    pub ttft_ms: f64,
    /// TTFT objective of requests with a short prompt, in milliseconds. 0 = `ttft_slack` times what an idle engine of this machine takes,
    /// measured before the run.
    pub ttft_short_ms: f64,
    /// TTFT objective of requests with a long prompt, in milliseconds. 0 = `ttft_slack` times what an idle engine takes.
    pub ttft_long_ms: f64,
    /// ITL objective, in milliseconds: no gap between two tokens of a request may be longer. The search also sizes engine steps by
    /// it. 0 = `itl_slack` times the gap when an engine decodes a few requests and nothing else.
    pub itl_ms: f64,
    /// TTFT objectives that are not given, in multiples of the TTFT of an idle engine.
    pub ttft_slack: f64,
    /// An ITL objective that is not given, in multiples of the ITL of an engine that decodes a few requests. It is about the longest gap, in
    /// which a step with other requests' prompts fits.
    pub itl_slack: f64,
}

/// Longer than any request lives.
const NO_OBJECTIVE: Micros = Micros(86_400_000_000);

impl Default for ObjectiveSettings {
    fn default() -> Self {
        ObjectiveSettings { ttft_ms: 0.0, ttft_short_ms: 0.0, ttft_long_ms: 0.0, itl_ms: 0.0, ttft_slack: 5.0, itl_slack: 10.0 }
    }
}

impl ObjectiveSettings {
    /// What a request of this class asks for. An objective that is yet to be measured is as good as none.
    pub fn of(&self, class: Class) -> Objectives {
        let or_none = |ms: f64| if ms > 0.0 { Micros::from_ms(ms) } else { NO_OBJECTIVE };
        Objectives { ttft_us_max: or_none(self.ttft_ms_of(class)), itl_us_max: or_none(self.itl_ms) }
    }

    /// Whether any of them is yet to be measured.
    pub fn is_open(&self) -> bool {
        self.itl_ms == 0.0 || [Class::Short, Class::Long].into_iter().any(|class| self.ttft_ms_of(class) == 0.0)
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

/// Requests of one repetition, at most: their records are kept in memory until the run is over.
const REQUESTS_MAX: u64 = 100_000;

impl Section for WorkloadSettings {
    fn rules(&self) -> Vec<Rule> {
        vec![
            rule("workload.load", "a share over 0, at most 1.5", self.load > 0.0 && self.load <= 1.5),
            rule("workload.rate", "requests per second, or 0 to derive them from workload.load", is_not_negative(self.rate)),
            count("workload.long_prompt_tokens", self.long_prompt_tokens),
            count("workload.short_prompt_tokens", self.short_prompt_tokens),
            count("workload.max_tokens", self.max_tokens),
        ]
    }

    fn relations(&self) -> Vec<Problem> {
        let (long, short) = (self.long_prompt_tokens, self.short_prompt_tokens);
        let all: u64 = [self.prefill_burst, self.decode_requests, self.continue_requests].into_iter().map(u64::from).sum();
        let found = [
            require(short <= long, "workload.short_prompt_tokens", format!("at most workload.long_prompt_tokens ({long})")),
            require(all > 0, "workload.prefill_burst", "at least 1 where decode_requests and continue_requests are 0"),
            require(
                all <= REQUESTS_MAX,
                "workload.prefill_burst",
                format!("at most {REQUESTS_MAX} requests together with decode_requests and continue_requests, which make {all}"),
            ),
        ];
        found.into_iter().flatten().collect()
    }
}

impl WorkloadSettings {
    /// What the lengths demand of an engine that takes requests of so many tokens (`engine.max_model_len`).
    pub fn relations_with(&self, context: u32) -> Vec<Problem> {
        let out = self.max_tokens;
        if out >= context {
            return Vec::from_iter(require(false, "workload.max_tokens", format!("less than engine.max_model_len ({context})")));
        }
        let room = context - out;
        let text = format!("at most {room}, which is engine.max_model_len ({context}) less workload.max_tokens ({out})");
        let fits = |key, tokens: u32| require(tokens <= room, key, text.clone());
        let [long, short] = [
            fits("workload.long_prompt_tokens", self.long_prompt_tokens),
            fits("workload.short_prompt_tokens", self.short_prompt_tokens),
        ];
        long.into_iter().chain(short).collect()
    }
}

/// A time that may be left to a measurement.
fn measured(key: &'static str, ms: f64) -> Rule {
    rule(key, "a number over 0, or 0 to measure it on this machine", ms == 0.0 || is_positive(ms))
}

impl Section for ObjectiveSettings {
    fn rules(&self) -> Vec<Rule> {
        let by_length = self.ttft_ms == 0.0;
        vec![
            rule(
                "objectives.ttft_ms",
                "a number over 0, or 0 to go by the prompt's length",
                by_length || is_positive(self.ttft_ms),
            ),
            measured("objectives.ttft_short_ms", self.ttft_short_ms),
            measured("objectives.ttft_long_ms", self.ttft_long_ms),
            measured("objectives.itl_ms", self.itl_ms),
            positive("objectives.ttft_slack", self.ttft_slack),
            positive("objectives.itl_slack", self.itl_slack),
        ]
    }
}
