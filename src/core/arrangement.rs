//! An arrangement: how the fleet is split, what decides where a request goes, and how each engine's scheduler is set. It is what a
//! benchmark arm runs and what a user would serve with.

use serde::{Deserialize, Serialize};

use super::{Role, Tuning};

/// The policies, by the names users give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// All engines alike, in turn.
    SharedRoundRobin,
    /// All engines alike; the one with the least work, counting what was dispatched and not yet reported.
    SharedLeastLoad,
    /// All engines alike; long prompts to the engine with the fewest of them in prefill, short ones by a weighted count.
    SharedBalanced,
    /// Long prompts to the prefill pool, short ones to the decode pool, each for its whole life; KV never moves.
    Dedicated,
    /// Long prompts prefill in the prefill pool and move to the decode pool when that is predicted to be better; short ones stay.
    DualPool,
    /// Every prompt prefills in the prefill pool and moves.
    FullDisaggregation,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arrangement {
    /// The arm's name, such as `dual_pool`.
    pub name: String,
    pub policy: PolicyKind,
    /// Each engine's role, by `EngineId`.
    pub roles: Vec<Role>,
    /// Each engine's scheduler settings, by `EngineId`.
    pub tunings: Vec<Tuning>,
    /// Prompts of at least this many tokens count as long to the policies that tell them apart.
    pub long_prompt_tokens_min: u32,
}
