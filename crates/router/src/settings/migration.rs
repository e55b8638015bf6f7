//! When requests that are decoding move to another engine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::settings::{Rule, Section, count, is_positive, not_negative, positive, rule, share};

/// Live migration of requests that decode. A drain migrates requests whatever these say, but `in_flight_max` and `candidates_max`
/// hold for it, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MigrationSettings {
    /// Migrate requests that decode to another engine, with their KV, when that is predicted to save more time than it costs.
    /// Draining an engine migrates its requests in any case.
    pub enabled: bool,
    /// Live migrations that may be under way at a time, over all engines, those of drains included.
    pub in_flight_max: u32,
    /// Length of the budget window, in milliseconds; `requests_max`, `tokens_max` and `kv_share_max` are per window. Windows follow
    /// each other and do not slide.
    pub window_ms: u64,
    /// Requests that are migrated in one window at most. Drains do not count.
    pub requests_max: u32,
    /// Tokens whose KV is migrated in one window at most. Drains do not count.
    pub tokens_max: u64,
    /// Tokens whose KV is migrated in one window at most, as a share of the KV cache of the engine that would get the next request.
    pub kv_share_max: f64,
    /// A request may leave an engine whose predicted ITL is over this share of the ITL objective of the requests there.
    pub itl_share_from: f64,
    /// A request may go to an engine whose predicted ITL, with the request, stays below this share of the objective. It is lower
    /// than `itl_share_from`, so that a migration does not cause the next one.
    pub itl_share_to: f64,
    /// Milliseconds an engine must have been too slow without a break before a request leaves it.
    pub sustained_ms: u64,
    /// How often one request is migrated at most, drains aside.
    pub per_request_max: u32,
    /// Milliseconds after a live migration in which the same request is not migrated again, drains aside.
    pub cool_down_ms: u64,
    /// Requests of one engine that are considered per tick, those with the least KV first.
    pub candidates_max: u32,
    /// By how much a copy slows down the requests that decode at both ends, as a share of the copy's time, per request. It is part
    /// of a migration's predicted cost.
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
            per_request_max: 3,
            cool_down_ms: 2_000,
            candidates_max: 16,
            contention: 0.1,
        }
    }
}

impl Section for MigrationSettings {
    fn rules(&self) -> Vec<Rule> {
        vec![
            count("router.migration.in_flight_max", self.in_flight_max),
            count("router.migration.window_ms", self.window_ms),
            count("router.migration.requests_max", self.requests_max),
            count("router.migration.tokens_max", self.tokens_max),
            share("router.migration.kv_share_max", self.kv_share_max),
            positive("router.migration.itl_share_from", self.itl_share_from),
            rule(
                "router.migration.itl_share_to",
                "a number over 0, less than router.migration.itl_share_from",
                is_positive(self.itl_share_to) && self.itl_share_to < self.itl_share_from,
            ),
            count("router.migration.per_request_max", self.per_request_max),
            count("router.migration.candidates_max", self.candidates_max),
            not_negative("router.migration.contention", self.contention),
        ]
    }
}
