//! How a request can fail. Every error names the phase it hit and the thing that caused it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{EngineId, Priority};

/// The phase of a request's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// As many requests are in flight as may.
    #[error("{in_flight} requests are in flight, the most that `router.max_in_flight` allows; retry later or raise it")]
    TooManyInFlight {
        /// The number of requests in flight.
        in_flight: u32,
    },
    /// Its prompt and output are longer than the model's context.
    #[error(
        "prompt of {prompt_tokens} tokens plus {max_tokens} output tokens is over the model's context of {max_model_len}; shorten it"
    )]
    TooLong {
        /// The length of its prompt in tokens.
        prompt_tokens: u32,
        /// The output tokens it asks for.
        max_tokens: u32,
        /// The longest context of the model in tokens.
        max_model_len: u32,
    },
    /// As many requests of its priority wait as may.
    #[error(
        "{queued} requests of priority {priority} wait, the most that `router.admission.queue_max` allows; retry in {retry_after_ms} ms"
    )]
    QueueFull {
        /// Its priority: 1 is the highest.
        priority: Priority,
        /// The requests of its priority that wait.
        queued: u32,
        /// After how many milliseconds the same request is likely to be admitted.
        retry_after_ms: u64,
    },
    /// It is predicted to use up more of its TTFT objective than is allowed.
    #[error(
        "its first token would come after {predicted_ms} ms, and {allowed_ms} ms are allowed (objective {objective_ms} ms times \
         `router.admission.reject_over`); retry in {retry_after_ms} ms or allow more"
    )]
    WouldMissTtft {
        /// The predicted time in milliseconds.
        predicted_ms: u64,
        /// The allowed time in milliseconds.
        allowed_ms: u64,
        /// The objective in milliseconds.
        objective_ms: u64,
        /// After how many milliseconds the same request is likely to be admitted.
        retry_after_ms: u64,
    },
    /// It is predicted to use up more of its ITL objective than is allowed.
    #[error(
        "its tokens would come up to {predicted_ms} ms apart, and {allowed_ms} ms are allowed (objective {objective_ms} ms times \
         `router.admission.reject_over`); retry in {retry_after_ms} ms or allow more"
    )]
    WouldMissItl {
        /// The predicted time in milliseconds.
        predicted_ms: u64,
        /// The allowed time in milliseconds.
        allowed_ms: u64,
        /// The objective in milliseconds.
        objective_ms: u64,
        /// After how many milliseconds the same request is likely to be admitted.
        retry_after_ms: u64,
    },
    /// Its prompt is empty.
    #[error("the prompt is empty; send at least one token")]
    EmptyPrompt,
    /// It asks for no output.
    #[error("max_tokens is 0; ask for at least one token")]
    NoOutput,
    /// Its sampling parameters cannot be served.
    #[error("{rule}")]
    Sampling {
        /// The rule that it breaks, in words.
        rule: String,
    },
    /// No engine of the fleet is alive.
    #[error("no engine of the fleet is alive")]
    NoEngine,
    /// The fleet is shutting down.
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
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RequestError {
    /// It was rejected before it was on any engine.
    #[error("rejected: {reason}")]
    Rejected {
        /// The reason.
        reason: RejectReason,
    },
    /// Its engine died, and no other could continue it.
    #[error("{engine} died during {phase}: {why}")]
    EngineDied {
        /// The engine.
        engine: EngineId,
        /// The phase that the request was in.
        phase: Phase,
        /// What happened, in words.
        why: String,
    },
    /// Its engine failed it.
    #[error("{engine} failed the request during {phase}: {why}")]
    Engine {
        /// The engine.
        engine: EngineId,
        /// The phase that the request was in.
        phase: Phase,
        /// What happened, in words.
        why: String,
    },
    /// Its client went away.
    #[error("the client went away during {phase}")]
    Cancelled {
        /// The phase that the request was in.
        phase: Phase,
    },
    /// The fleet was shut down.
    #[error("dualpool shut down during {phase}")]
    ShutDown {
        /// The phase that the request was in.
        phase: Phase,
    },
}
