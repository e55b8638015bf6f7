//! A request's place in what a workload is made of.

use serde::{Deserialize, Serialize};

use crate::SessionId;

/// A request's place in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Turn {
    pub session: SessionId,
    /// Counted from 0 within the session.
    pub index: u32,
}

/// The wave that a request of `two_wave_imbalance` comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wave {
    Background,
    Foreground,
}
