//! A request between its arrival and its end.

use std::sync::Arc;

use dualpool_types::records::MigrationReason;
use dualpool_types::{Bytes, EngineId, KvSource, LegId, Micros, Phase, Request, Time, TokenId};

use super::admission::Admitted;
use super::fleet::LegDemand;
use super::policy::Ask;
use super::prefix::Chain;

/// What outlives a change of engine.
#[derive(Debug)]
pub(super) struct Journey {
    pub request: Request,
    /// Output tokens so far, all of them sent to the client.
    pub tokens: Vec<TokenId>,
    /// Legs sent so far; the next leg's number.
    pub legs: u16,
    /// Times the request was resumed after an engine's death.
    pub resumes: u32,
    /// What it was let in with, until its first token: none where nobody wants to know.
    pub admitted: Option<Admitted>,
    /// Names of the prefixes of prompt and tokens, as far as they were needed.
    pub chain: Chain,
    /// Times it moved while decoding, and when it did so last.
    pub moves: u32,
    pub moved_at: Option<Time>,
}

impl Journey {
    pub fn new(request: Request) -> Journey {
        Journey {
            request,
            tokens: Vec::new(),
            legs: 0,
            resumes: 0,
            admitted: None,
            chain: Chain::default(),
            moves: 0,
            moved_at: None,
        }
    }

    pub fn remaining(&self) -> u32 {
        self.request.max_tokens - self.tokens.len() as u32
    }

    /// What a leg sent now has to compute or load: the prompt and all output tokens so far.
    pub fn prompt(&self) -> Arc<[TokenId]> {
        if self.tokens.is_empty() {
            return self.request.prompt.clone();
        }
        self.request.prompt.iter().chain(&self.tokens).copied().collect()
    }

    /// It can go on elsewhere with the very tokens it would have got here.
    pub fn can_move(&self) -> bool {
        self.request.sampling.continues().is_ok()
    }

    pub fn ask(&self) -> Ask {
        Ask {
            prompt_tokens: self.request.prompt_tokens() + self.tokens.len() as u32,
            outputs: self.remaining(),
            objectives: self.request.objectives,
        }
    }
}

/// The stay on an engine that the request is in.
///
/// ```text
/// whole:  Prefill -first token-> Decode -end-> over
/// split:  Prefill -first token-> Handoff -end, on to the next stay-> Handoff -first token-> Decode -end-> over
///                                                                    Handoff -copy failed-> Prefill (recomputes)
/// parted: Decode -next token, on to the next stay-> Handoff, as above
/// ```
#[derive(Debug)]
pub(super) struct Stay {
    pub leg: LegId,
    pub engine: EngineId,
    pub phase: Phase,
    /// Ends with its first token, and the request moves on.
    pub split: bool,
    /// Was asked to end with its next token, and the request moves on.
    pub parting: Option<Parting>,
    /// The request came here while it was decoding, and has no token from here yet.
    pub arriving: bool,
    /// Output tokens still expected of this leg.
    pub left: u32,
    pub demand: LegDemand,
    /// Prompt tokens that the engine's prefix cache was believed to hold when the leg was sent.
    pub believed: u32,
    /// When the stay began, which is when the one before it ended.
    pub since: Time,
    /// When it began to decode here, if it does.
    pub decodes_since: Option<Time>,
    /// When it gave its last tokens; when it began, while it has given none.
    pub last: Time,
    /// Tokens to be loaded, and what the mover reported of that.
    pub loading: Option<Loading>,
}

/// Why a request leaves the engine it decodes on, and for which.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parting {
    /// None leaves it to the policy, by the signals of the moment.
    pub to: Option<EngineId>,
    pub why: MigrationReason,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Loading {
    pub from: EngineId,
    pub tokens: u32,
    /// There was a seat and memory for the leg when it was sent: what it waits is the hand-off alone.
    pub at_once: bool,
    pub copied: Option<(Micros, Bytes)>,
}

#[derive(Debug)]
pub(super) struct Flight {
    pub journey: Journey,
    pub stay: Stay,
    /// Blocks that the stay before this one left for it.
    pub held: Option<KvSource>,
}

impl Flight {
    /// It decodes, and could do so elsewhere.
    pub fn can_part(&self) -> bool {
        let Stay { split, parting, left, demand, .. } = &self.stay;
        demand.started && !split && parting.is_none() && *left > 1 && self.journey.can_move()
    }

    /// It is on its way from one engine on which it decoded to another.
    pub fn is_moving(&self) -> bool {
        self.stay.parting.is_some() || self.stay.arriving
    }
}
