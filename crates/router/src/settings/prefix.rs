//! What the router believes of the engines' prefix caches.

use serde::{Deserialize, Serialize};

/// When the router keeps an index of the engines' prefix caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefixTracking {
    /// While the policy that serves asks for it.
    Auto,
    /// Under every policy: load then counts only the prompt tokens that are not cached.
    Always,
    Never,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixSettings {
    pub track: PrefixTracking,
    /// Tokens per block of the index: 0 (the engines' own block size) or a multiple of 16.
    pub block_tokens: u32,
    /// Blocks that the index remembers at most, over all engines; each has an equal part of them.
    pub blocks_max: u32,
}

impl Default for PrefixSettings {
    fn default() -> Self {
        PrefixSettings { track: PrefixTracking::Auto, block_tokens: 0, blocks_max: 1 << 20 }
    }
}
