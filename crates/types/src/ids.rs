//! Identifiers as types of their own, so that swapping two of them does not compile.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A token of the model's vocabulary.
pub type TokenId = u32;

/// An engine's place in the fleet, counted from 0 in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct EngineId(pub u16);

impl EngineId {
    /// This engine's place in a slice that holds one element per engine.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine-{}", self.0)
    }
}

/// A client's request; unique for the life of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request-{}", self.0)
    }
}

/// A conversation: several requests of one client, each prompt of which begins with the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session-{}", self.0)
    }
}

/// One stay of a request on one engine: the n-th submission of that request, counted from 0. An engine knows a leg by its
/// `Display` form (`"7.0"`), and never sees the same leg twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct LegId {
    pub request: RequestId,
    pub leg: u16,
}

impl fmt::Display for LegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.request.0, self.leg)
    }
}

impl std::str::FromStr for LegId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (request, leg) = text.split_once('.')?;
            Some(LegId { request: RequestId(request.parse().ok()?), leg: leg.parse().ok()? })
        };
        parse().ok_or_else(|| format!("`{text}` is not a leg id; expected `<request>.<leg>`, such as `7.0`"))
    }
}

/// A KV-cache block of one engine, as that engine's block manager numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct BlockId(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leg_id_survives_its_text_form() {
        let leg = LegId { request: RequestId(91), leg: 3 };
        assert_eq!(leg.to_string().parse(), Ok(leg));
        assert!("91".parse::<LegId>().unwrap_err().contains("`91`"));
    }
}
