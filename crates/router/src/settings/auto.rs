//! How the policy `auto` goes about choosing an arrangement while it serves.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoSettings {
    /// How often the candidates are compared. A comparison takes one look per `router.tick_ms`, so with many candidates it takes longer.
    pub period_ms: u64,
    /// Time constant of the window: a request that arrived this long ago counts for a third of one that arrives now.
    pub window_ms: u64,
    /// Another arrangement must be forecast to serve this much more of the requests within their objectives, as a share of all of them.
    pub margin: f64,
    /// ... in this many comparisons in a row.
    pub hold: u32,
    /// Time from one change to the next, at least.
    pub cool_down_ms: u64,
}

impl Default for AutoSettings {
    fn default() -> Self {
        AutoSettings { period_ms: 500, window_ms: 8_000, margin: 0.06, hold: 2, cool_down_ms: 3_000 }
    }
}
