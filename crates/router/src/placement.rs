//! A request that needs a place, and the place that it gets.

use dualpool_types::{EngineId, Objectives};

/// A request that needs a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// Prompt and all output tokens so far.
    pub prompt_tokens: u32,
    /// Output tokens to come.
    pub outputs: u32,
    pub objectives: Objectives,
}

/// A place for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// One engine does all of it.
    Whole(EngineId),
    /// This engine prefills; another one decodes, which is chosen when the prefill is done.
    Split(EngineId),
}

impl Placement {
    /// The engine on which the request starts.
    pub fn engine(self) -> EngineId {
        match self {
            Placement::Whole(engine) | Placement::Split(engine) => engine,
        }
    }

    pub fn is_split(self) -> bool {
        matches!(self, Placement::Split(_))
    }
}
