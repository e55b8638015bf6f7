//! What the router noted of its decisions: why it did what the other records show that it did. Lines of `decisions.jsonl`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Arrangement, EngineId, Micros, PolicyKind, RequestId, Role};

/// A decision of the router that concerns more than where one leg went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RouterNote {
    /// An engine changed pools.
    RoleChanged {
        /// The engine that changed pools.
        engine: EngineId,
        /// The role it had.
        from: Role,
        /// The role it has from then on.
        to: Role,
        /// Why it changed, in words.
        why: String,
    },
    /// Policy `auto` chose another arrangement.
    Rearranged {
        /// The name of the arrangement until then.
        from: String,
        /// The arrangement from then on.
        to: Arrangement,
        /// The share of the requests within their objectives, 0 to 1, forecast for the arrangement until then; null for the first one,
        /// which no forecast chose.
        forecast_from: Option<f64>,
        /// The same forecast for the arrangement from then on.
        forecast_to: Option<f64>,
        /// The number of requests that the forecasts are for.
        requests: u32,
    },
    /// How admission stands. It is noted at most once per second, and not while nothing of note changes.
    Admission(AdmissionState),
    /// A leg was placed; this is noted only with `router.explain`.
    Placed(Placed),
    /// A request left the engine it decoded on.
    Migrated {
        /// The id of the request.
        request: RequestId,
        /// The engine that it left.
        from: EngineId,
        /// The engine that it went to.
        to: EngineId,
        /// The tokens whose KV is to be copied; 0 when it is computed again.
        tokens: u32,
        /// Why it was migrated.
        why: MigrationReason,
    },
    /// Nothing is left on an engine that was to be drained.
    Drained {
        /// The engine that is drained.
        engine: EngineId,
    },
    /// An engine that was to be drained takes requests again.
    DrainEnded {
        /// The engine that takes requests again.
        engine: EngineId,
        /// Why it does, in words.
        why: String,
    },
}

/// Which requests are admitted, wait and were rejected. Lists are by priority: 1, 2, 3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdmissionState {
    /// Prompt tokens that may be under way; null without a window.
    pub window_tokens: Option<u64>,
    /// Prompt tokens that are under way: sent to engines for requests that have no token yet.
    pub tokens_in_flight: u64,
    /// Requests that wait for admission.
    pub queued: [u32; 3],
    /// Requests that admission control rejected so far: because the queue was full, or because they would have missed their
    /// objectives.
    pub rejected: [u64; 3],
}

/// Where a leg of a request went, and what spoke for and against each engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Placed {
    /// The id of the request.
    pub request: RequestId,
    /// The policy that decided.
    pub policy: PolicyKind,
    /// The prompt and output tokens so far.
    pub prompt_tokens: u32,
    /// The output tokens to come.
    pub outputs: u32,
    /// The engine that holds the KV of the prompt; null for a leg that starts with its prompt.
    pub from: Option<EngineId>,
    /// The engine that it was sent to.
    pub chosen: EngineId,
    /// Whether it only prefills there and is then handed off.
    pub prefill_only: bool,
    /// The engines that could be chosen, the best first.
    pub candidates: Vec<Candidate>,
}

/// One engine, as a policy saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// The engine.
    pub engine: EngineId,
    /// What the policy ranks by: the lowest wins, unless the policy draws. Null when the policy could not score the engine.
    pub score: Option<f64>,
    /// Tokens from the start of the prompt that its prefix cache was believed to hold.
    pub cached_tokens: u32,
    /// The terms of the score, by name; docs/routing.md explains them.
    pub terms: BTreeMap<String, f64>,
}

/// Why a request was migrated while it was decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MigrationReason {
    /// Its engine is drained.
    Drain,
    /// It was predicted to end sooner, at what the migration costs all requests.
    SavesTime,
}

/// A note, with the run it was made in and when, counted from the run's start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NoteRecord {
    /// The arm under measurement.
    pub arm: String,
    /// The repetition, counted from 0.
    pub repetition: u32,
    /// When it was noted, in microseconds since the start of the run.
    pub at_us: Micros,
    #[serde(flatten)]
    pub note: RouterNote,
}
