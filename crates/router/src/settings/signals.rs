//! How the router sums up what it sees of each engine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::settings::{Rule, Section, count};

/// Averages of what is observed of each engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SignalSettings {
    /// Time constant of the averages, in milliseconds: an observation this old weighs 37 % (1/e) of a new one.
    pub tau_ms: u64,
    /// A signal without a new observation for this many milliseconds counts as unknown.
    pub age_max_ms: u64,
    /// Requests of an engine, after each of its starts, whose first tokens are not observed, because first requests pay for
    /// one-time work.
    pub warm_up_requests: u32,
}

impl Default for SignalSettings {
    fn default() -> Self {
        SignalSettings { tau_ms: 5_000, age_max_ms: 10_000, warm_up_requests: 3 }
    }
}

impl Section for SignalSettings {
    fn rules(&self) -> Vec<Rule> {
        vec![count("router.signals.tau_ms", self.tau_ms), count("router.signals.age_max_ms", self.age_max_ms)]
    }
}
