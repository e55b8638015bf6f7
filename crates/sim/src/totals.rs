//! What a simulation comes to, beside its records.

use dualpool_types::Micros;

/// Sums over a whole simulation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    pub requests: u64,
    /// Requests in flight at once, at most.
    pub in_flight_max: u64,
    /// Steps of all engines.
    pub steps: u64,
    /// Things that happened, steps and ticks included.
    pub events: u64,
    /// When the last thing happened.
    pub ended: Micros,
    /// Leases of held blocks that ran out.
    pub leases_expired: u64,
    /// Of engines that live: blocks that are neither free nor cached at the end.
    pub blocks_leaked: u64,
    /// What the router still counted as in flight at the end.
    pub unsettled: u64,
    /// By engine.
    pub engines: Vec<EngineTotals>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineTotals {
    /// Time spent in steps.
    pub busy: Micros,
    pub steps: u64,
    pub output_tokens: u64,
    pub prompt_tokens_computed: u64,
    /// Prompt tokens found in the prefix cache.
    pub prompt_tokens_cached: u64,
    /// Cached blocks that were overwritten.
    pub evictions: u64,
    /// KV moves into this engine that succeeded.
    pub moves_in: u64,
    /// Legs on the engine by the router's count: their mean over the time of the whole simulation, and the most there were.
    pub queue_mean: f64,
    pub queue_max: u64,
    /// When it died.
    pub died: Option<Micros>,
}
