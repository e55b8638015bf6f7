//! What became of a request: what a line of `requests.jsonl` and one of `simulated_requests.jsonl` have in common.

use serde::Deserialize;

use dualpool_types::records::{HandoffKind, HandoffRecord, Outcome};
use dualpool_types::{EngineId, Micros};

#[derive(Debug, Deserialize)]
pub(super) struct Fate {
    pub arm: String,
    #[serde(default)]
    pub repetition: u32,
    /// In a simulation a request's place is its id.
    id: Option<u64>,
    index: u64,
    pub outcome: Outcome,
    prompt_tokens: u64,
    #[serde(default)]
    handoffs: Vec<HandoffRecord>,
    /// Where a run has its legs, a simulation has the engines it was on, and what the first of them had cached.
    #[serde(default)]
    legs: Vec<Stay>,
    #[serde(default)]
    engines: Vec<EngineId>,
    #[serde(default)]
    cached_tokens: u64,
}

#[derive(Debug, Deserialize)]
struct Stay {
    cached_tokens: u64,
}

impl Fate {
    pub(super) fn request(&self) -> u64 {
        self.id.unwrap_or(self.index)
    }

    /// Tokens of its prompt, and those of them that its first engine had in its prefix cache; none when it reached no engine.
    pub(super) fn cached(&self) -> Option<(u64, u64)> {
        let simulated = || (!self.engines.is_empty()).then_some(self.cached_tokens);
        let cached = self.legs.first().map(|leg| leg.cached_tokens).or_else(simulated)?;
        Some((self.prompt_tokens, cached))
    }

    /// The gaps that its client saw while it moved in the midst of decoding.
    pub(super) fn downtimes(&self) -> impl Iterator<Item = Micros> {
        let live = self.handoffs.iter().filter(|handoff| handoff.kind == HandoffKind::LiveMigration && !handoff.recomputed);
        live.filter_map(|handoff| Some(handoff.ended_us? - handoff.started_us))
    }
}
