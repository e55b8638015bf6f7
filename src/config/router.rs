//! What the router goes by.

use serde::{Deserialize, Serialize};

use super::{AutoSettings, RoleSettings};
use crate::core::LONG_PROMPT_TOKENS_MIN;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterSettings {
    /// Requests admitted and not yet over, at most; further ones are rejected.
    pub max_in_flight: u32,
    /// Prompts of at least this many tokens count as long (`--prefill-ctx-thresh`).
    pub prefill_ctx_thresh: u32,
    /// An admitted request whose engine dies is resumed on another one at most this many times.
    pub resumes_max: u32,
    /// How often the router looks at what is due with time.
    pub tick_ms: u64,
    /// Engines that change pools (`router.roles.*`).
    pub roles: RoleSettings,
    /// The policy `auto` (`router.auto.*`).
    pub auto: AutoSettings,
}

impl Default for RouterSettings {
    fn default() -> Self {
        RouterSettings {
            max_in_flight: 1024,
            prefill_ctx_thresh: LONG_PROMPT_TOKENS_MIN,
            resumes_max: 3,
            tick_ms: 50,
            roles: RoleSettings::default(),
            auto: AutoSettings::default(),
        }
    }
}
