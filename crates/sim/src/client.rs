//! A request's record while it is being served.

use dualpool_types::records::{HandoffKind, HandoffRecord, LegRecord, Outcome, RequestRecord};
use dualpool_types::{Bytes, EngineId, Leg, LegId, Micros, Request, RequestError, Role, Time, TokenId};

pub(super) struct Client {
    record: RequestRecord,
    /// Legs that were to end before their time.
    detached: Vec<u16>,
}

impl Client {
    pub fn new(arm: &str, request: &Request, arrived: Time) -> Client {
        let record = RequestRecord {
            arm: arm.to_owned(),
            repetition: 0,
            id: request.id,
            index: request.id.0 as u32,
            class: request.class,
            wave: None,
            turn: None,
            prompt_tokens: request.prompt_tokens(),
            objectives: request.objectives,
            arrived_us: Micros(arrived.0),
            admitted_us: None,
            token_us: Vec::new(),
            tokens: Vec::new(),
            legs: Vec::new(),
            handoffs: Vec::new(),
            ended_us: Micros::ZERO,
            outcome: Outcome::Done,
        };
        Client { record, detached: Vec::new() }
    }

    /// A leg that decodes is to end where it is, and the request to go on elsewhere.
    pub fn detached(&mut self, leg: LegId) {
        self.detached.push(leg.leg);
    }

    pub fn sent(&mut self, now: Time, engine: EngineId, role: Role, leg: &Leg) {
        let now = Micros(now.0);
        self.record.admitted_us.get_or_insert(now);
        if let Some(source) = leg.kv_source {
            let ended = self.record.legs.get(usize::from(source.leg.leg)).and_then(|leg| leg.ended_us);
            let kind = if self.detached.contains(&source.leg.leg) { HandoffKind::Live } else { HandoffKind::Prefill };
            self.record.handoffs.push(HandoffRecord {
                kind,
                from: source.engine,
                to: engine,
                started_us: ended.unwrap_or(now),
                copy_wait_us: None,
                copy_started_us: None,
                copy_us: None,
                computed_us: None,
                ended_us: None,
                bytes: Bytes(0),
                runs: 0,
                recomputed: false,
            });
        }
        self.record.legs.push(LegRecord {
            engine,
            role,
            submitted_us: now,
            first_token_us: None,
            ended_us: None,
            output_tokens: 0,
            cached_tokens: 0,
        });
    }

    /// The leg gave a token, or ended, or both.
    pub fn gave(&mut self, now: Time, id: LegId, token: bool, cached_tokens: Option<u32>, ended: bool) {
        let now = Micros(now.0);
        let Some(leg) = self.record.legs.get_mut(usize::from(id.leg)) else { return };
        leg.cached_tokens = cached_tokens.unwrap_or(leg.cached_tokens);
        leg.output_tokens += u32::from(token);
        if ended {
            leg.ended_us = Some(now);
        }
        if token && leg.first_token_us.is_none() {
            leg.first_token_us = Some(now);
            if let Some(handoff) = self.handoff_to(id) {
                (handoff.ended_us, handoff.recomputed) = (Some(now), handoff.copy_us.is_none());
            }
        }
    }

    /// The copy for this leg succeeded.
    pub fn moved(&mut self, id: LegId, started: Time, copy: Micros, bytes: Bytes) {
        if let Some(handoff) = self.handoff_to(id) {
            (handoff.copy_started_us, handoff.copy_us) = (Some(Micros(started.0)), Some(copy));
            (handoff.copy_wait_us, handoff.bytes, handoff.runs) = (Some(Micros::ZERO), bytes, 1);
        }
    }

    /// Of all hand-offs only the last one can still change, and only for the leg that is the last one.
    fn handoff_to(&mut self, id: LegId) -> Option<&mut HandoffRecord> {
        let last = usize::from(id.leg) + 1 == self.record.legs.len();
        self.record.handoffs.last_mut().filter(|handoff| last && handoff.ended_us.is_none())
    }

    pub fn emitted(&mut self, now: Time, tokens: &[TokenId]) {
        self.record.token_us.extend(tokens.iter().map(|_| Micros(now.0)));
        self.record.tokens.extend_from_slice(tokens);
    }

    pub fn end(mut self, now: Time, result: Result<(), RequestError>) -> RequestRecord {
        self.record.ended_us = Micros(now.0);
        self.record.outcome = result.map_or_else(|error| Outcome::Failed { error }, |()| Outcome::Done);
        self.record
    }
}
