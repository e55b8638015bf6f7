//! When requests that are decoding move to another engine.

use serde::{Deserialize, Serialize};

/// Of live migration. The bound on moves under way holds for a drain, too; all else is for moves that are to pay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MigrationSettings {
    /// Move requests when that is predicted to pay. A drain moves them in any case.
    pub enabled: bool,
    /// Moves under way at a time.
    pub in_flight_max: u32,
    /// The time that the budgets below are for.
    pub window_ms: u64,
    /// Requests, tokens of KV, and tokens of KV as a share of the target's KV cache, that are moved within a window.
    pub requests_max: u32,
    pub tokens_max: u64,
    pub kv_share_max: f64,
    /// Requests leave an engine whose predicted ITL is over this share of their objective ...
    pub itl_share_from: f64,
    /// ... for one where it is below this share with them.
    pub itl_share_to: f64,
    /// How long an engine must have been over its share.
    pub sustained_ms: u64,
    /// Moves of one request.
    pub moves_max: u32,
    /// How long a request that moved does not move again.
    pub cool_down_ms: u64,
    /// Requests of an engine that are looked at in one tick, those with the least KV first.
    pub candidates_max: u32,
    /// How much longer a copy makes a step of each request at both ends, as a share of the copy's time.
    pub contention: f64,
}

impl Default for MigrationSettings {
    fn default() -> Self {
        MigrationSettings {
            enabled: false,
            in_flight_max: 2,
            window_ms: 1_000,
            requests_max: 8,
            tokens_max: 32_768,
            kv_share_max: 0.25,
            itl_share_from: 0.95,
            itl_share_to: 0.85,
            sustained_ms: 200,
            moves_max: 3,
            cool_down_ms: 2_000,
            candidates_max: 16,
            contention: 0.1,
        }
    }
}
