//! How the router sums up what it sees of each engine.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignalSettings {
    /// Time in which an observation loses all but 37 % (1/e) of its weight.
    pub tau_ms: u64,
    /// A signal that nothing was added to for this long is not used: it says what was.
    pub age_max_ms: u64,
    /// An engine's first requests after its start leave no trace in its signals: they pay for what later ones find done.
    pub warm_up_requests: u32,
}

impl Default for SignalSettings {
    fn default() -> Self {
        SignalSettings { tau_ms: 5_000, age_max_ms: 10_000, warm_up_requests: 3 }
    }
}
