//! What the router noted of its decisions: why it did what the other records show that it did. Lines of `decisions.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Arrangement, EngineId, Micros, PolicyKind, RequestId, Role};

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
    /// How admission stands. At most one per second, and none while nothing of note changes.
    Admission(AdmissionState),
    /// A leg was placed; noted only with `router.explain`.
    Placed(Placed),
    /// A request left the engine it decoded on. `tokens` is how much KV is to be copied; 0 when it is computed again.
    Migrated { request: RequestId, from: EngineId, to: EngineId, tokens: u32, why: MigrationReason },
    /// Nothing is left on an engine that was to be drained.
    Drained { engine: EngineId },
    /// An engine that was to be drained takes requests again.
    DrainEnded { engine: EngineId, why: String },
}

/// The state of admission: its window, how many requests wait, and how many were rejected. Lists are by priority: 1, 2, 3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionState {
    /// Prompt tokens that may be under way; none without a window.
    pub window_tokens: Option<u64>,
    /// Prompt tokens that are: dispatched, and their request without its first token.
    pub tokens_in_flight: u64,
    /// Requests that wait for admission.
    pub queued: [u32; 3],
    /// Requests rejected by admission control so far: for want of room, or because their objectives would be broken.
    pub rejected: [u64; 3],
}

/// Where a leg of a request went, and what spoke for and against each engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    pub request: RequestId,
    pub policy: PolicyKind,
    /// Prompt and output tokens so far, and output tokens to come.
    pub prompt_tokens: u32,
    pub outputs: u32,
    /// The engine that holds the KV of the prompt; none for a leg that starts with its prompt.
    pub from: Option<EngineId>,
    pub chosen: EngineId,
    /// The chosen engine only prefills, and the request moves on.
    pub prefill_only: bool,
    /// Best first.
    pub candidates: Vec<Candidate>,
}

/// One engine, as a policy saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub engine: EngineId,
    /// What the policy ranks by: the lowest wins, unless the policy draws. None when the policy could not score the engine.
    pub score: Option<f64>,
    /// Tokens from the start of the prompt that its prefix cache was believed to hold.
    pub cached_tokens: u32,
    /// By name.
    pub terms: BTreeMap<String, f64>,
}

/// Why a request moved while it was decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MigrationReason {
    /// Its engine is drained.
    Drain,
    /// The migration was predicted to save the request more time than it costs the requests at both ends.
    SavesTime,
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
