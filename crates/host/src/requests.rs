//! What became of every request: its record, made as it unfolds.

use dualpool_router::{Action, EngineState, Event};
use dualpool_types::records::{HandoffKind, HandoffRecord, LegRecord, Outcome, RequestRecord};
use dualpool_types::{Bytes, IdMap, Leg, LegId, Micros, Request, RequestError, RequestId, Time, TokenId};

use crate::{Copied, Entry, Facts, Run};

/// Holds the records of the requests in flight, and gives each one out when its request ends.
#[derive(Debug, Default)]
pub struct Requests {
    in_flight: IdMap<RequestId, InFlight>,
    /// Of the request that arrives next.
    facts: Option<(RequestId, Facts)>,
}

/// A record whose times are the clock's until it ends.
#[derive(Debug)]
struct InFlight {
    record: RequestRecord,
    /// By hand-off: the leg that fetches.
    fetching: Vec<u16>,
    /// Legs that were to end before their time, for the request to go on elsewhere.
    detached: Vec<u16>,
    /// When its engine had computed the tokens that come next.
    computed: Option<Micros>,
}

impl Requests {
    /// Takes an entry in; gives out the record of the request that ends with it, as one of `run`. Most entries are of no interest here, which
    /// the compiler sees where it is inlined.
    #[inline(always)]
    pub fn entry(&mut self, at: Time, entry: &Entry<'_>, run: &Run) -> Option<RequestRecord> {
        match *entry {
            Entry::Event(Event::Arrived(request)) => self.arrived(at, request),
            Entry::Event(Event::Output { leg, tokens, cached_tokens, finish }) => {
                if let Some(request) = self.in_flight.get_mut(&leg.request) {
                    request.gave(at, *leg, tokens.len() as u32, *cached_tokens, finish.is_some());
                }
            }
            Entry::Action(action, engines) => return self.action(at, action, engines, run),
            Entry::Facts(request, facts) => self.facts = Some((request, facts)),
            Entry::Computed(leg) => {
                if let Some(request) = self.in_flight.get_mut(&leg.request) {
                    request.computed = Some(Micros(at.0));
                }
            }
            Entry::Copied(copied) => {
                if let Some(request) = self.in_flight.get_mut(&copied.leg.request) {
                    request.copied(&copied);
                }
            }
            Entry::Event(_) | Entry::Sampled(_) | Entry::Gpu(..) => {}
        }
        None
    }

    /// The one place where what a workload knows of a request meets what became of it. Where nothing else is known, the id is the place.
    fn arrived(&mut self, at: Time, request: &Request) {
        let known = self.facts.take().filter(|(of, _)| *of == request.id).map(|(_, facts)| facts);
        let facts = known.unwrap_or(Facts { index: request.id.0 as u32, ..Facts::default() });
        let record = RequestRecord {
            arm: String::new(),
            repetition: 0,
            id: request.id,
            index: facts.index,
            class: request.class,
            wave: facts.wave,
            turn: facts.turn,
            prompt_tokens: request.prompt_tokens(),
            objectives: request.objectives,
            arrived_us: Micros(facts.arrived.unwrap_or(at).0),
            admitted_us: None,
            token_us: Vec::new(),
            tokens: Vec::new(),
            legs: Vec::new(),
            handoffs: Vec::new(),
            ended_us: Micros::ZERO,
            outcome: Outcome::Done,
        };
        let in_flight = InFlight { record, fetching: Vec::new(), detached: Vec::new(), computed: None };
        self.in_flight.entry(request.id).or_insert(in_flight);
    }

    #[inline]
    fn action(&mut self, at: Time, action: &Action, engines: &[EngineState], run: &Run) -> Option<RequestRecord> {
        match action {
            Action::Submit { engine, leg } => self.in_flight.get_mut(&leg.id.request)?.sent(at, &engines[engine.index()], leg),
            Action::Detach { leg, .. } => self.in_flight.get_mut(&leg.request)?.detached.push(leg.leg),
            Action::Emit { request, tokens } => self.in_flight.get_mut(request)?.emitted(at, tokens),
            Action::Finish { request, result } => return Some(self.in_flight.remove(request)?.end(at, result, run)),
            Action::Abort { .. } | Action::Release { .. } | Action::Tune { .. } | Action::Note(_) => {}
        }
        None
    }
}

impl InFlight {
    fn sent(&mut self, at: Time, engine: &EngineState, leg: &Leg) {
        let at = Micros(at.0);
        self.record.admitted_us.get_or_insert(at);
        if let Some(source) = leg.kv_source {
            let ended = self.record.legs.get(usize::from(source.leg.leg)).and_then(|leg| leg.ended_us);
            let kind = if self.detached.contains(&source.leg.leg) { HandoffKind::LiveMigration } else { HandoffKind::Handoff };
            self.fetching.push(leg.id.leg);
            self.record.handoffs.push(HandoffRecord {
                kind,
                from: source.engine,
                to: engine.id,
                started_us: ended.unwrap_or(at),
                copy_wait_us: None,
                copy_started_us: None,
                copy_us: None,
                computed_us: None,
                ended_us: None,
                bytes: Bytes(0),
                byte_ranges: 0,
                recomputed: false,
            });
        }
        self.record.legs.push(LegRecord {
            engine: engine.id,
            role: engine.role,
            submitted_us: at,
            first_token_us: None,
            ended_us: None,
            output_tokens: 0,
            cached_tokens: 0,
        });
    }

    /// The leg gave tokens, or ended, or both.
    fn gave(&mut self, at: Time, id: LegId, tokens: u32, cached_tokens: Option<u32>, ended: bool) {
        let (at, computed) = (Micros(at.0), self.computed.take());
        let Some(leg) = self.record.legs.get_mut(usize::from(id.leg)) else { return };
        leg.cached_tokens = cached_tokens.unwrap_or(leg.cached_tokens);
        leg.output_tokens += tokens;
        if ended {
            leg.ended_us.get_or_insert(at);
        }
        if tokens > 0 && leg.first_token_us.is_none() {
            leg.first_token_us = Some(at);
            let last = usize::from(id.leg) + 1 == self.record.legs.len();
            // Also of a leg that took the place of the one that was to fetch, when that one's engine died.
            if let Some(handoff) = self.record.handoffs.last_mut().filter(|handoff| last && handoff.ended_us.is_none()) {
                (handoff.computed_us, handoff.ended_us) = (computed, Some(at));
                handoff.recomputed = handoff.copy_us.is_none();
            }
        }
    }

    fn copied(&mut self, &Copied { leg, waited, started, took, bytes, byte_ranges, .. }: &Copied) {
        let handoff = self.fetching.iter().rposition(|fetching| *fetching == leg.leg);
        if let Some(handoff) = handoff.and_then(|at| self.record.handoffs.get_mut(at)) {
            (handoff.copy_wait_us, handoff.copy_started_us, handoff.copy_us) = (Some(waited), Some(Micros(started.0)), Some(took));
            // The mover's word may come after the leg's first token.
            (handoff.bytes, handoff.byte_ranges, handoff.recomputed) = (bytes, byte_ranges, false);
        }
    }

    fn emitted(&mut self, at: Time, tokens: &[TokenId]) {
        let RequestRecord { tokens: all, token_us, .. } = &mut self.record;
        all.extend_from_slice(tokens);
        tokens.iter().for_each(|_| token_us.push(Micros(at.0)));
    }

    fn end(mut self, at: Time, result: &Result<(), RequestError>, run: &Run) -> RequestRecord {
        self.record.ended_us = Micros(at.0);
        if let Err(error) = result {
            self.record.outcome = Outcome::Failed { error: error.clone() };
        }
        run.adopt(&mut self.record);
        self.record
    }
}

#[cfg(test)]
mod tests {
    use dualpool_router::{EngineFacts, Router, RouterSettings};
    use dualpool_types::{Class, EngineId, FinishReason, KvSource, Objectives, Priority, Sampling, Turn};

    use super::*;

    const ENGINE: EngineFacts = EngineFacts {
        max_model_len: 4096,
        max_num_batched_tokens: 2048,
        max_num_seqs: 64,
        kv_tokens: 32_768,
        kv_transfer: true,
        prefix_block_tokens: 16,
        cost_per_hour: None,
    };

    fn request(id: u64) -> Request {
        Request {
            id: RequestId(id),
            prompt: vec![1; 100].into(),
            max_tokens: 2,
            ignore_eos: true,
            sampling: Sampling::default(),
            class: Class::Long,
            priority: Priority::Normal,
            objectives: Objectives { ttft_us_max: Micros(1), itl_us_max: Micros(1) },
        }
    }

    fn leg(number: u16, kv_source: Option<KvSource>) -> Leg {
        let Request { id, prompt, max_tokens, ignore_eos, sampling, .. } = request(7);
        Leg {
            id: LegId { request: id, leg: number },
            prompt,
            max_tokens,
            ignore_eos,
            sampling,
            kv_source,
            hold: kv_source.is_none(),
        }
    }

    #[test]
    fn a_record_has_what_the_workload_knows_and_times_from_the_start_of_its_run() {
        let (router, run) =
            (Router::new(&[ENGINE; 2], &RouterSettings::default()), Run { arm: "a".into(), repetition: 3, origin: Time(100) });
        let mut requests = Requests::default();
        let mut tell = |at: u64, entry: Entry<'_>| requests.entry(Time(at), &entry, &run);
        let turn = Some(Turn { session: dualpool_types::SessionId(1), index: 4 });
        let facts = Facts { index: 5, arrived: Some(Time(150)), wave: None, turn };
        tell(160, Entry::Facts(RequestId(7), facts));
        tell(160, Entry::Event(&Event::Arrived(request(7))));
        let engines = router.engines();
        let output = |leg, tokens| Event::Output { leg, tokens, cached_tokens: None, finish: Some((&FinishReason::Length, None)) };
        let (first, source) = (leg(0, None), KvSource { engine: EngineId(0), leg: leg(0, None).id, tokens: 100 });
        let second = leg(1, Some(source));
        tell(170, Entry::Action(&Action::Submit { engine: EngineId(0), leg: first.clone() }, engines));
        tell(180, Entry::Event(&output(first.id, &[1])));
        tell(181, Entry::Action(&Action::Emit { request: RequestId(7), tokens: vec![1] }, engines));
        tell(182, Entry::Action(&Action::Submit { engine: EngineId(1), leg: second.clone() }, engines));
        let copied = Copied {
            leg: second.id,
            to: EngineId(1),
            waited: Micros(1),
            started: Time(185),
            took: Micros(2),
            bytes: Bytes(9),
            byte_ranges: 3,
        };
        tell(187, Entry::Copied(copied));
        tell(190, Entry::Computed(second.id));
        tell(195, Entry::Event(&output(second.id, &[2])));
        tell(196, Entry::Action(&Action::Emit { request: RequestId(7), tokens: vec![2] }, engines));
        let record = tell(197, Entry::Action(&Action::Finish { request: RequestId(7), result: Ok(()) }, engines)).unwrap();
        assert_eq!((record.arm.as_str(), record.repetition, record.index, record.turn), ("a", 3, 5, turn));
        assert_eq!((record.arrived_us, record.admitted_us, record.ended_us), (Micros(50), Some(Micros(70)), Micros(97)));
        assert_eq!((record.tokens, record.token_us), (vec![1, 2], vec![Micros(81), Micros(96)]));
        let [handoff] = &record.handoffs[..] else { panic!("{:?}", record.handoffs) };
        let times = (handoff.started_us, handoff.copy_started_us, handoff.computed_us, handoff.ended_us);
        assert_eq!(times, (Micros(80), Some(Micros(85)), Some(Micros(90)), Some(Micros(95))));
        assert_eq!(
            (handoff.copy_wait_us, handoff.copy_us, handoff.bytes, handoff.byte_ranges),
            (Some(Micros(1)), Some(Micros(2)), Bytes(9), 3)
        );
        assert!(!handoff.recomputed && record.legs.len() == 2);
    }

    #[test]
    fn a_request_of_which_nothing_else_is_known_has_its_id_for_a_place() {
        let mut requests = Requests::default();
        let mut tell = |at: u64, entry: Entry<'_>| requests.entry(Time(at), &entry, &Run::of("b"));
        // Of another request, which never comes.
        tell(1, Entry::Facts(RequestId(1), Facts { index: 9, ..Facts::default() }));
        tell(2, Entry::Event(&Event::Arrived(request(7))));
        let finish = Action::Finish { request: RequestId(7), result: Ok(()) };
        let record = tell(3, Entry::Action(&finish, &[])).unwrap();
        assert_eq!((record.index, record.arrived_us, record.ended_us), (7, Micros(2), Micros(3)));
        assert_eq!(tell(4, Entry::Action(&finish, &[])), None, "given out once");
    }
}
