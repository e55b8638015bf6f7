//! How the policy `auto` goes about choosing an arrangement while it serves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::settings::{Rule, Section, count, margin};

/// The policy `auto`, which chooses its arrangement while it serves; docs/adaptive.md explains it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AutoSettings {
    /// Milliseconds between the starts of two comparisons of the candidate arrangements. One candidate is forecast per
    /// `router.tick_ms`, so a comparison with many candidates takes longer than this.
    pub period_ms: u64,
    /// Time constant, in milliseconds, of the memory of recent requests: a request that arrived this long ago weighs 37 % of one
    /// that arrives now. Requests older than three time constants are forgotten.
    pub window_ms: u64,
    /// By how much another arrangement's forecast must be better to replace the present one, as a share of all requests (0.06 = 6
    /// percentage points of requests within their objectives).
    pub margin: f64,
    /// Comparisons in a row that another arrangement must win before it takes over.
    pub hold: u32,
    /// Milliseconds between two changes of the arrangement at least.
    pub cool_down_ms: u64,
}

impl Default for AutoSettings {
    fn default() -> Self {
        AutoSettings { period_ms: 500, window_ms: 8_000, margin: 0.06, hold: 2, cool_down_ms: 3_000 }
    }
}

impl Section for AutoSettings {
    fn rules(&self) -> Vec<Rule> {
        vec![
            count("router.auto.period_ms", self.period_ms),
            count("router.auto.window_ms", self.window_ms),
            margin("router.auto.margin", self.margin),
            count("router.auto.hold", self.hold),
        ]
    }
}
