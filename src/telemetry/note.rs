//! What the router noted of its decisions: why it did what the other records show that it did. Lines of `decisions.jsonl`.

use serde::{Deserialize, Serialize};

use crate::core::{EngineId, Micros, Role};

/// A decision of the router that concerns more than where one leg went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RouterNote {
    /// An engine changed pools.
    RoleChanged { engine: EngineId, from: Role, to: Role, why: String },
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
