//! What the router noted of its decisions: why it did what the other records show that it did. Lines of `decisions.jsonl`.

use serde::{Deserialize, Serialize};

use crate::core::{Arrangement, EngineId, Micros, Role};

/// A decision of the router that concerns more than where one leg went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RouterNote {
    /// An engine changed pools.
    RoleChanged { engine: EngineId, from: Role, to: Role, why: String },
    /// `auto` chose another arrangement.
    Rearranged {
        from: String,
        to: Arrangement,
        /// Share of the requests within their objectives, forecast for what was and for what is now; none for the first one, which
        /// no forecast chose.
        forecast_from: Option<f64>,
        forecast_to: Option<f64>,
        /// Requests that the forecasts are for.
        requests: u32,
    },
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
