//! How a request can fail. Every error names the phase it hit and the thing that caused it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{EngineId, Priority};

/// The phase of a request's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Admission,
    Prefill,
    Handoff,
    Decode,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Phase::Admission => "admission",
            Phase::Prefill => "prefill",
            Phase::Handoff => "hand-off",
            Phase::Decode => "decode",
        })
    }
}

/// Why a request was turned away before any engine saw it.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    #[error("{in_flight} requests are in flight, the most that `router.max_in_flight` allows; retry later or raise it")]
    TooManyInFlight { in_flight: u32 },
    #[error(
        "prompt of {prompt_tokens} tokens plus {max_tokens} output tokens is over the model's context of {max_model_len}; shorten it"
    )]
    TooLong { prompt_tokens: u32, max_tokens: u32, max_model_len: u32 },
    #[error(
        "{queued} requests of priority {priority} wait, the most that `router.admission.queue_max` allows; retry in {retry_after_ms} ms"
    )]
    QueueFull { priority: Priority, queued: u32, retry_after_ms: u64 },
    #[error(
        "its first token would come after {predicted_ms} ms, and {allowed_ms} ms are allowed (objective {objective_ms} ms times \
         `router.admission.reject_over`); retry in {retry_after_ms} ms or allow more"
    )]
    WouldMissTtft { predicted_ms: u64, allowed_ms: u64, objective_ms: u64, retry_after_ms: u64 },
    #[error(
        "its tokens would come up to {predicted_ms} ms apart, and {allowed_ms} ms are allowed (objective {objective_ms} ms times \
         `router.admission.reject_over`); retry in {retry_after_ms} ms or allow more"
    )]
    WouldMissItl { predicted_ms: u64, allowed_ms: u64, objective_ms: u64, retry_after_ms: u64 },
    #[error("the prompt is empty; send at least one token")]
    EmptyPrompt,
    #[error("max_tokens is 0; ask for at least one token")]
    NoOutput,
    #[error("{rule}")]
    Sampling { rule: String },
    #[error("no engine of the fleet is alive")]
    NoEngine,
    #[error("dualpool is shutting down")]
    ShuttingDown,
}

impl RejectReason {
    /// When the same request is likely to be let in, where waiting helps and the router can tell how long.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match *self {
            RejectReason::QueueFull { retry_after_ms, .. }
            | RejectReason::WouldMissTtft { retry_after_ms, .. }
            | RejectReason::WouldMissItl { retry_after_ms, .. } => Some(retry_after_ms),
            _ => None,
        }
    }
}

/// Why a request ended without all its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RequestError {
    #[error("rejected: {reason}")]
    Rejected { reason: RejectReason },
    #[error("{engine} died during {phase}: {why}")]
    EngineDied { engine: EngineId, phase: Phase, why: String },
    #[error("{engine} failed the request during {phase}: {why}")]
    Engine { engine: EngineId, phase: Phase, why: String },
    #[error("the client went away during {phase}")]
    Cancelled { phase: Phase },
    #[error("dualpool shut down during {phase}")]
    ShutDown { phase: Phase },
}
