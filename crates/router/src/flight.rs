//! A request from when it is let in to its end, and all that are.

use std::collections::HashMap;
use std::sync::Arc;

use dualpool_types::records::MigrationReason;
use dualpool_types::{Bytes, EngineId, KvSource, LegId, Micros, Phase, Request, RequestId, Time, TokenId};

use crate::fleet::LegDemand;
use crate::placement::Ask;
use crate::prefix::{Chain, Named, Tokens};

/// What a request that is to give its first token was let in with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted {
    pub(crate) at: Time,
    /// Prompt tokens that its engine was believed to have to compute of it, and those under way with it.
    pub(crate) prompt_tokens: u32,
    pub(crate) in_flight: u64,
}

/// What outlives a change of engine.
#[derive(Debug)]
pub(crate) struct Journey {
    pub(crate) request: Request,
    /// Output tokens so far, all of them sent to the client.
    pub(crate) tokens: Vec<TokenId>,
    /// Legs sent so far; the next leg's number.
    pub(crate) legs: u16,
    /// Times the request was resumed after an engine's death.
    pub(crate) resumes: u32,
    /// What it was let in with, until its first token: none where admission does not go by it.
    pub(crate) admitted: Option<Admitted>,
    /// Names of the prefixes of prompt and tokens, as far as they were needed.
    pub(crate) chain: Chain,
    /// Live migrations so far, and when the last one was.
    pub(crate) migrations: u32,
    pub(crate) migrated_at: Option<Time>,
}

impl Journey {
    pub(crate) fn new(request: Request) -> Journey {
        Journey {
            request,
            tokens: Vec::new(),
            legs: 0,
            resumes: 0,
            admitted: None,
            chain: Chain::default(),
            migrations: 0,
            migrated_at: None,
        }
    }

    pub(crate) fn remaining(&self) -> u32 {
        self.request.max_tokens - self.tokens.len() as u32
    }

    /// What a leg sent now has to compute or to fetch: the prompt and all output tokens so far.
    pub(crate) fn prompt(&self) -> Arc<[TokenId]> {
        if self.tokens.is_empty() {
            return self.request.prompt.clone();
        }
        self.request.prompt.iter().chain(&self.tokens).copied().collect()
    }

    /// It can go on elsewhere with the very tokens it would have got here.
    pub(crate) fn can_change_engine(&self) -> bool {
        self.request.sampling.continues().is_ok()
    }

    pub(crate) fn ask(&self) -> Ask {
        Ask {
            prompt_tokens: self.request.prompt_tokens() + self.tokens.len() as u32,
            outputs: self.remaining(),
            objectives: self.request.objectives,
        }
    }

    /// What it consists of by now, to be looked up in prefix caches.
    pub(crate) fn named(&mut self) -> Named<'_> {
        let Journey { request, tokens, chain, .. } = self;
        let tokens_max = request.prompt_tokens().saturating_add(request.max_tokens);
        Named { chain, tokens: Tokens { prompt: &request.prompt, outputs: tokens }, tokens_max }
    }
}

/// The stay on an engine that the request is in.
///
/// ```text
/// whole:    Prefill -first token-> Decode -end-> over
/// split:    Prefill -first token-> Handoff -end, on to the next stay-> Handoff -first token-> Decode -end-> over
///                                                                      Handoff -copy failed-> Prefill (recomputes)
/// detached: Decode -next token, on to the next stay-> Handoff, as above
/// ```
#[derive(Debug)]
pub(crate) struct Stay {
    pub(crate) leg: LegId,
    pub(crate) engine: EngineId,
    pub(crate) phase: Phase,
    /// Ends with its first token, and the request is handed off.
    pub(crate) split: bool,
    /// Was asked to end with its next token, and the request migrates.
    pub(crate) detaching: Option<Detaching>,
    /// The request came here while it was decoding, and has no token from here yet.
    pub(crate) arriving: bool,
    /// Output tokens still expected of this leg.
    pub(crate) left: u32,
    pub(crate) demand: LegDemand,
    /// Prompt tokens that the engine's prefix cache was believed to hold when the leg was sent.
    pub(crate) believed: u32,
    /// When the stay began, which is when the one before it ended.
    pub(crate) since: Time,
    /// When it began to decode here, if it does.
    pub(crate) decodes_since: Option<Time>,
    /// When it gave its last tokens; when it began, while it has given none.
    pub(crate) last: Time,
    /// KV to be fetched, and what the mover reported of that.
    pub(crate) fetching: Option<Fetching>,
}

impl Stay {
    /// It gave so many tokens: its prompt is computed.
    pub(crate) fn gave(&mut self, tokens: u32) {
        self.left -= tokens;
        self.demand = LegDemand {
            prefill: 0,
            started: true,
            context: self.demand.context + tokens,
            outputs: self.demand.outputs - tokens,
            ..self.demand
        };
    }
}

/// Why a request leaves the engine it decodes on, and for which.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detaching {
    /// None leaves it to the policy, by the signals of the moment.
    pub(crate) to: Option<EngineId>,
    pub(crate) why: MigrationReason,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetching {
    pub(crate) from: EngineId,
    pub(crate) tokens: u32,
    /// There was a seat and memory for the leg when it was sent: what it waits is the hand-off alone.
    pub(crate) at_once: bool,
    pub(crate) copied: Option<(Micros, Bytes)>,
}

#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) journey: Journey,
    pub(crate) stay: Stay,
    /// Blocks that the stay before this one left for it.
    pub(crate) held: Option<KvSource>,
}

impl Flight {
    /// It decodes, and could do so elsewhere.
    pub(crate) fn can_detach(&self) -> bool {
        let Stay { split, detaching, left, demand, .. } = &self.stay;
        demand.started && !split && detaching.is_none() && *left > 1 && self.journey.can_change_engine()
    }

    /// It is on its way from one engine on which it decoded to another.
    pub(crate) fn is_migrating(&self) -> bool {
        self.stay.detaching.is_some() || self.stay.arriving
    }
}

/// The requests that were let in and are not over, and the aborted legs that their engine has not ended yet.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flights: HashMap<RequestId, Flight>,
    /// Until the engine reports the end of such a leg it may still come to hold blocks for it.
    ending: HashMap<LegId, EngineId>,
}

impl Flights {
    /// Requests and aborted legs: what `router.max_in_flight` bounds.
    pub(crate) fn len(&self) -> usize {
        self.flights.len() + self.ending.len()
    }

    pub(crate) fn contains(&self, request: RequestId) -> bool {
        self.flights.contains_key(&request)
    }

    pub(crate) fn get(&self, request: RequestId) -> Option<&Flight> {
        self.flights.get(&request)
    }

    pub(crate) fn get_mut(&mut self, request: RequestId) -> Option<&mut Flight> {
        self.flights.get_mut(&request)
    }

    /// The request that is on this very leg; none for a leg that is over.
    pub(crate) fn on_leg(&self, leg: LegId) -> Option<&Flight> {
        self.flights.get(&leg.request).filter(|flight| flight.stay.leg == leg)
    }

    pub(crate) fn on_leg_mut(&mut self, leg: LegId) -> Option<&mut Flight> {
        self.flights.get_mut(&leg.request).filter(|flight| flight.stay.leg == leg)
    }

    /// In no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.flights.values()
    }

    pub(crate) fn insert(&mut self, flight: Flight) {
        self.flights.insert(flight.journey.request.id, flight);
    }

    pub(crate) fn remove(&mut self, request: RequestId) -> Option<Flight> {
        self.flights.remove(&request)
    }

    /// All of them, in an order that does not depend on chance.
    pub(crate) fn requests(&self) -> Vec<RequestId> {
        let mut requests: Vec<RequestId> = self.flights.keys().copied().collect();
        requests.sort_unstable();
        requests
    }

    /// The leg was aborted, and its engine has yet to end it.
    pub(crate) fn aborted(&mut self, leg: LegId, engine: EngineId) {
        self.ending.insert(leg, engine);
    }

    pub(crate) fn is_ending(&self, leg: LegId) -> bool {
        self.ending.contains_key(&leg)
    }

    /// The engine ended an aborted leg.
    pub(crate) fn ended(&mut self, leg: LegId) {
        self.ending.remove(&leg);
    }

    /// The engine died, and what it held with it. Returns the requests that were on it, in an order that does not depend on chance.
    pub(crate) fn engine_died(&mut self, dead: EngineId) -> Vec<RequestId> {
        self.ending.retain(|_, engine| *engine != dead);
        let mut stranded = Vec::new();
        for (&request, flight) in &mut self.flights {
            if flight.stay.engine == dead {
                stranded.push(request);
            }
            // A leg that was to fetch its blocks finds that out from the mover and computes its prompt.
            flight.held.take_if(|source| source.engine == dead);
        }
        stranded.sort_unstable();
        stranded
    }

    /// Whether blocks held for this leg are, or will be, of use: the leg still runs, or another one is to fetch them.
    pub(crate) fn need_blocks_of(&self, leg: LegId) -> bool {
        let of = |flight: &Flight| flight.stay.leg == leg || flight.held.is_some_and(|source| source.leg == leg);
        self.flights.get(&leg.request).is_some_and(of)
    }

    /// Whether the engine holds blocks that are to be fetched, or has yet to end an aborted leg.
    pub(crate) fn need(&self, engine: EngineId) -> bool {
        let holds = |flight: &Flight| flight.held.is_some_and(|source| source.engine == engine);
        self.flights.values().any(holds) || self.ending.values().any(|of| *of == engine)
    }
}

#[cfg(test)]
impl Flight {
    /// A request that decodes on this engine and has 100 tokens to come, with so many tokens of KV.
    pub(crate) fn decoding(request: u64, engine: EngineId, context: u32) -> Flight {
        use dualpool_types::{Class, Objectives, Priority, Sampling};
        let (request, left) = (RequestId(request), 100);
        let objectives = Objectives { ttft_us_max: Micros(1_000_000), itl_us_max: Micros(100_000) };
        let journey = Journey::new(Request {
            id: request,
            prompt: vec![1; context as usize].into(),
            max_tokens: left,
            ignore_eos: true,
            sampling: Sampling::default(),
            class: Class::Short,
            priority: Priority::Normal,
            objectives,
        });
        let stay = Stay {
            leg: LegId { request, leg: 0 },
            engine,
            phase: Phase::Decode,
            split: false,
            detaching: None,
            arriving: false,
            left,
            demand: LegDemand { prefill: 0, long: false, context, outputs: left, started: true, objectives },
            believed: 0,
            since: Time::default(),
            decodes_since: Some(Time::default()),
            last: Time::default(),
            fetching: None,
        };
        Flight { journey, stay, held: None }
    }
}
