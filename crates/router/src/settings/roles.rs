//! When an engine changes pools while requests run.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoleSettings {
    /// Whether engines change pools at all. The policy `auto` weighs the sizes of the pools itself, whatever this says.
    pub enabled: bool,
    /// Time constant over which a pool's pressure is averaged.
    pub smooth_ms: u64,
    /// A pool must starve for this long before it gets an engine.
    pub hold_ms: u64,
    /// Time from one change to the next, at least.
    pub cool_down_ms: u64,
    /// The pool under the higher pressure must be predicted to be this much better off, as a share of its pressure.
    pub margin: f64,
}

impl Default for RoleSettings {
    fn default() -> Self {
        RoleSettings { enabled: false, smooth_ms: 1_000, hold_ms: 2_000, cool_down_ms: 10_000, margin: 0.1 }
    }
}
