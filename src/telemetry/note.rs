//! What the router noted of its decisions: why it did what the other records show that it did. Lines of `decisions.jsonl`.

use serde::{Deserialize, Serialize};

use crate::core::{EngineId, Micros, Role};

/// A decision of the router that concerns more than where one leg went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RouterNote {
    /// An engine changed pools.
    RoleChanged { engine: EngineId, from: Role, to: Role, why: String },
    /// How admission stands. At most one per second, and none while nothing of note changes.
    Admission(AdmissionState),
}

/// Who is let in, who waits, and who was turned away. Lists are by priority: 1, 2, 3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionState {
    /// Prompt tokens that may be under way; none without a window.
    pub window_tokens: Option<u64>,
    /// Prompt tokens that are: dispatched, and their request without its first token.
    pub tokens_in_flight: u64,
    /// Requests that wait for admission.
    pub queued: [u32; 3],
    /// Requests turned away by admission control so far: for want of room, or because their objectives would be broken.
    pub rejected: [u64; 3],
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
