//! A request's place in what a workload is made of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SessionId;

/// A request's place in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Turn {
    /// The conversation.
    pub session: SessionId,
    /// The turn, counted from 0 within the conversation.
    pub index: u32,
}

/// The wave that a request of `two_wave_imbalance` comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wave {
    /// Long prompts and chats that keep engines busy.
    Background,
    /// Chats that arrive on top of them.
    Foreground,
}
