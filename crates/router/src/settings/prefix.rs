//! What the router believes of the engines' prefix caches.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::settings::{Rule, Section, rule};

/// When the router keeps an index of the engines' prefix caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrefixTracking {
    /// While the policy that serves asks for it.
    Auto,
    /// Under every policy: demand then counts only the prompt tokens that are not cached.
    Always,
    /// Under no policy: all then take every prompt token for one that is computed.
    Never,
}

/// The router's index of what the engines' prefix caches hold; docs/prefix-index.md explains it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixSettings {
    /// When the router keeps the index: `auto` while the policy that serves uses it, `always`, or `never`. With `always` every
    /// policy's demand counts only the prompt tokens that are not cached.
    pub track: PrefixTracking,
    /// Tokens per block of the index. 0 = the engines' own block size: the largest of them, rounded up to a multiple of 16.
    pub block_tokens: u32,
    /// Blocks that the index remembers at most over all engines, at most 224 bytes each. Every engine that caches prefixes gets an
    /// equal part, and no more than its KV cache holds.
    pub blocks_max: u32,
}

impl Default for PrefixSettings {
    fn default() -> Self {
        PrefixSettings { track: PrefixTracking::Auto, block_tokens: 0, blocks_max: 1 << 20 }
    }
}

/// At 224 bytes each they take 14 GiB.
const BLOCKS_MAX: u32 = 1 << 26;

impl Section for PrefixSettings {
    fn rules(&self) -> Vec<Rule> {
        vec![
            rule("router.prefix.block_tokens", "0 (the engines' own) or a multiple of 16", self.block_tokens.is_multiple_of(16)),
            rule("router.prefix.blocks_max", "a whole number from 1 to 67108864", (1..=BLOCKS_MAX).contains(&self.blocks_max)),
        ]
    }
}
