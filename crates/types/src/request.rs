//! A client's request, and what it asks for.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Micros, RequestId, Sampling, TokenId};

/// What the router may send an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Prefill,
    Decode,
    Shared,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Prefill, Role::Decode, Role::Shared];

    pub fn name(self) -> &'static str {
        match self {
            Role::Prefill => "prefill",
            Role::Decode => "decode",
            Role::Shared => "shared",
        }
    }
}

/// The kind of prompt, for figures per kind. Policies do not read it: they see the prompt's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    Short,
    Long,
}

/// How much a request matters: 1 is the highest, 3 the lowest. Written as its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u8", into = "u8")]
pub enum Priority {
    High = 1,
    #[default]
    Normal = 2,
    Low = 3,
}

impl Priority {
    pub const ALL: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

    /// This priority's place in a list of one element per priority, highest first.
    pub fn index(self) -> usize {
        self as usize - 1
    }
}

impl std::fmt::Display for Priority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (*self as u8).fmt(f)
    }
}

impl TryFrom<u8> for Priority {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 => Ok(Priority::High),
            2 => Ok(Priority::Normal),
            3 => Ok(Priority::Low),
            _ => Err(format!("priority is {number}; it must be 1 (highest), 2 or 3")),
        }
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> u8 {
        priority as u8
    }
}

/// What the user calls good service for one request. A request is within its objectives when its TTFT and its longest ITL are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Objectives {
    /// The longest time to the first token in microseconds.
    pub ttft_us_max: Micros,
    /// The longest time between two tokens in microseconds.
    pub itl_us_max: Micros,
}

/// A request as it reaches the router.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: RequestId,
    pub prompt: Arc<[TokenId]>,
    /// Output tokens at which the request ends; at least 1.
    pub max_tokens: u32,
    /// Go on to `max_tokens` even when the model ends its answer sooner (benchmarks need equal work).
    pub ignore_eos: bool,
    pub sampling: Sampling,
    pub class: Class,
    pub priority: Priority,
    pub objectives: Objectives,
}

impl Request {
    pub fn prompt_tokens(&self) -> u32 {
        self.prompt.len() as u32
    }
}
