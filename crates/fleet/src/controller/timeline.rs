//! The timeline of one request, as it unfolds.

use dualpool_cuda::nvtx::Range;
use dualpool_kv::KvEvent;
use dualpool_types::records::{HandoffKind, HandoffRecord, LegRecord, Outcome, RequestRecord};
use dualpool_types::{Class, EngineId, Leg, LegId, LegOutput, Micros, Objectives, Request, RequestError, Role, Time, TokenId};

/// Times as the clock gives them; a record's times count from its recording's origin.
#[derive(Debug)]
pub(super) struct Timeline {
    index: u32,
    class: Class,
    prompt_tokens: u32,
    objectives: Objectives,
    arrived: Time,
    tokens: Vec<TokenId>,
    token_at: Vec<Time>,
    /// By the leg's number.
    legs: Vec<LegTimes>,
    handoffs: Vec<Handoff>,
}

#[derive(Debug)]
struct LegTimes {
    engine: EngineId,
    role: Role,
    submitted: Time,
    /// When its engine had computed the first token, and when it was here.
    computed: Option<Time>,
    first_token: Option<Time>,
    ended: Option<Time>,
    output_tokens: u32,
    cached_tokens: u32,
    /// It was asked to end with its next token.
    detached: bool,
    /// What the leg is at, for a profiler.
    phase: Range,
}

#[derive(Debug)]
struct Handoff {
    /// The leg that loads.
    leg: u16,
    kind: HandoffKind,
    from: EngineId,
    to: EngineId,
    started: Time,
    copied: Option<Copied>,
}

#[derive(Debug)]
struct Copied {
    waited: Micros,
    started: Time,
    took: Micros,
    bytes: dualpool_types::Bytes,
    runs: u32,
}

impl Timeline {
    pub fn new(request: &Request, index: u32, arrived: Time) -> Timeline {
        Timeline {
            index,
            class: request.class,
            prompt_tokens: request.prompt_tokens(),
            objectives: request.objectives,
            arrived,
            tokens: Vec::new(),
            token_at: Vec::new(),
            legs: Vec::new(),
            handoffs: Vec::new(),
        }
    }

    /// A leg goes to an engine.
    pub fn sent(&mut self, now: Time, engine: EngineId, role: Role, leg: &Leg) {
        if let Some(source) = leg.kv_source {
            let started = self.legs.get(usize::from(source.leg.leg)).and_then(|stay| stay.ended).unwrap_or(now);
            let detached = self.legs.get(usize::from(source.leg.leg)).is_some_and(|stay| stay.detached);
            let kind = if detached { HandoffKind::Live } else { HandoffKind::Prefill };
            self.handoffs.push(Handoff { leg: leg.id.leg, kind, from: source.engine, to: engine, started, copied: None });
        }
        let phase = Range::begin(|| match leg.kv_source {
            Some(source) => format!("handoff {} > {engine}", source.engine),
            None => format!("prefill {engine}"),
        });
        self.legs.push(LegTimes {
            engine,
            role,
            submitted: now,
            computed: None,
            first_token: None,
            ended: None,
            output_tokens: 0,
            cached_tokens: 0,
            detached: false,
            phase,
        });
    }

    /// A leg is asked to end, for the request to go on elsewhere.
    pub fn detaching(&mut self, leg: LegId) {
        if let Some(stay) = self.legs.get_mut(usize::from(leg.leg)) {
            stay.detached = true;
        }
    }

    /// A leg gave something, which its engine had computed at `computed`.
    pub fn gave(&mut self, at: Time, computed: Time, output: &LegOutput) {
        let Some(stay) = self.legs.get_mut(usize::from(output.leg.leg)) else { return };
        if !output.tokens.is_empty() {
            if stay.first_token.is_none() {
                (stay.computed, stay.first_token) = (Some(computed), Some(at));
                stay.phase = Range::default(); // ends before the next one begins
                stay.phase = Range::begin(|| format!("decode {}", stay.engine));
            }
            stay.output_tokens += output.tokens.len() as u32;
        }
        stay.cached_tokens = output.cached_tokens.unwrap_or(stay.cached_tokens);
        if output.finish.is_some() {
            stay.ended.get_or_insert(at);
            stay.phase = Range::default();
        }
    }

    /// The mover is done with the copy that `leg` waited for.
    pub fn moved(&mut self, leg: LegId, event: &KvEvent) {
        let KvEvent::Fetched { waited, started, copy, bytes, byte_ranges: runs, error: None, .. } = *event else { return };
        if let Some(handoff) = self.handoffs.iter_mut().find(|handoff| handoff.leg == leg.leg) {
            handoff.copied = Some(Copied { waited, started, took: copy, bytes, runs });
        }
    }

    /// Tokens went to the client.
    pub fn emitted(&mut self, at: Time, tokens: &[TokenId]) {
        self.tokens.extend_from_slice(tokens);
        self.token_at.resize(self.tokens.len(), at);
    }

    pub fn record(
        self,
        request: dualpool_types::RequestId,
        ended: Time,
        result: &Result<(), RequestError>,
        run: &RunLabel,
    ) -> RequestRecord {
        let since = |time: Time| time.since(run.origin);
        let handoff = |handoff: &Handoff| {
            let stay = self.legs.get(usize::from(handoff.leg));
            let first_token = stay.and_then(|stay| stay.first_token);
            HandoffRecord {
                kind: handoff.kind,
                from: handoff.from,
                to: handoff.to,
                started_us: since(handoff.started),
                copy_wait_us: handoff.copied.as_ref().map(|copied| copied.waited),
                copy_started_us: handoff.copied.as_ref().map(|copied| since(copied.started)),
                copy_us: handoff.copied.as_ref().map(|copied| copied.took),
                computed_us: stay.and_then(|stay| stay.computed).map(since),
                ended_us: first_token.map(since),
                bytes: handoff.copied.as_ref().map(|copied| copied.bytes).unwrap_or_default(),
                runs: handoff.copied.as_ref().map_or(0, |copied| copied.runs),
                recomputed: first_token.is_some() && handoff.copied.is_none(),
            }
        };
        RequestRecord {
            arm: run.arm.clone(),
            repetition: run.repetition,
            id: request,
            index: self.index,
            class: self.class,
            wave: None,
            turn: None,
            prompt_tokens: self.prompt_tokens,
            objectives: self.objectives,
            arrived_us: since(self.arrived),
            admitted_us: self.legs.first().map(|stay| since(stay.submitted)),
            token_us: self.token_at.iter().copied().map(since).collect(),
            handoffs: self.handoffs.iter().map(handoff).collect(),
            legs: self.legs.iter().map(|stay| stay.record(since)).collect(),
            tokens: self.tokens,
            ended_us: since(ended),
            outcome: match result {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed { error: error.clone() },
            },
        }
    }
}

impl LegTimes {
    fn record(&self, since: impl Fn(Time) -> Micros) -> LegRecord {
        LegRecord {
            engine: self.engine,
            role: self.role,
            submitted_us: since(self.submitted),
            first_token_us: self.first_token.map(&since),
            ended_us: self.ended.map(&since),
            output_tokens: self.output_tokens,
            cached_tokens: self.cached_tokens,
        }
    }
}

/// The run that a record belongs to, and where its times count from.
#[derive(Debug)]
pub(super) struct RunLabel {
    pub arm: String,
    pub repetition: u32,
    pub origin: Time,
}
