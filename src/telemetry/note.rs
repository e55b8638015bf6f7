//! What the router noted of its decisions: why it did what the other records show that it did. Lines of `decisions.jsonl`.

use serde::{Deserialize, Serialize};

use crate::core::{EngineId, Micros, RequestId, Role};

/// A decision of the router that concerns more than where one leg went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RouterNote {
    /// An engine changed pools.
    RoleChanged { engine: EngineId, from: Role, to: Role, why: String },
    /// A request left the engine it decoded on. `tokens` is how much KV is to be copied; 0 when it is computed again.
    Migrated { request: RequestId, from: EngineId, to: EngineId, tokens: u32, why: MoveReason },
    /// Nothing is left on an engine that was to be drained.
    Drained { engine: EngineId },
    /// An engine that was to be drained takes requests again.
    DrainEnded { engine: EngineId, why: String },
}

/// Why a request moved while it was decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveReason {
    /// Its engine is drained.
    Drain,
    /// It was predicted to end sooner for it, at what the move costs everybody.
    Pays,
}

/// A note, with the run it was made in and when, counted from the run's start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoteRecord {
    pub arm: String,
    pub repetition: u32,
    pub at_us: Micros,
    #[serde(flatten)]
    pub note: RouterNote,
}
