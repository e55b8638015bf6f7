//! When an engine changes pools while requests run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::settings::{Rule, Section, count, margin};

/// Engines that change pools while requests run; docs/adaptive.md explains it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RoleSettings {
    /// Whether engines change between the prefill and the decode pool. It applies to arrangements with two pools between which KV
    /// is copied. The policy `auto` chooses the sizes of its pools itself, whatever this says.
    pub enabled: bool,
    /// Time constant, in milliseconds, over which a pool's pressure is averaged. A pressure of 1 is where a pool's requests begin
    /// to miss their objectives.
    pub smooth_ms: u64,
    /// Milliseconds a pool must have been at a pressure of 1 or more before it gets an engine.
    pub hold_ms: u64,
    /// Milliseconds between two pool changes at least, over the whole fleet.
    pub cool_down_ms: u64,
    /// Predicted relief that a change needs: the pressure of the worse pool must fall by this share of itself.
    pub margin: f64,
}

impl Default for RoleSettings {
    fn default() -> Self {
        RoleSettings { enabled: false, smooth_ms: 1_000, hold_ms: 2_000, cool_down_ms: 10_000, margin: 0.1 }
    }
}

impl Section for RoleSettings {
    fn rules(&self) -> Vec<Rule> {
        vec![
            count("router.roles.smooth_ms", self.smooth_ms),
            count("router.roles.cool_down_ms", self.cool_down_ms),
            margin("router.roles.margin", self.margin),
        ]
    }
}
