//! A fleet of virtual engines: the real router, tasks, channels, holds and hand-offs, with a timing model for the GPU.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;

use dualpool_engine::virtual_engine::{VirtualEngine, VirtualEngines, VirtualMover};
use dualpool_engine::{Engine, TokenizeError};
use dualpool_fleet::TelemetrySettings;
use dualpool_fleet::{Facts, Fleet, NewRequest, Recording, Reply, ReplyStream, Unsettled};
use dualpool_model::{Fingerprint, VirtualSettings};
use dualpool_router::{DrainError, RouterSettings, ScoreSettings};
use dualpool_types::records::{HandoffKind, HandoffRecord, LegRecord, Outcome, RequestRecord, RouterNote};
use dualpool_types::{
    Arrangement, Class, Clock, EngineId, EngineInfo, Leg, LegId, Micros, MonotonicClock, Objectives, Phase, PolicyKind, Priority,
    RejectReason, RequestError, Role, Sampling, TokenId, Tuning, seeded,
};

use crate::support::faults::{Fault, Faults};

/// Nothing in these tests takes seconds; a wait this long means that something hangs.
const HANGS: Duration = Duration::from_secs(60);
const SPEED: f64 = 100.0;

struct Rig {
    fleet: Fleet,
    engines: Vec<VirtualEngine>,
    mover: VirtualMover,
    faults: Faults,
    clock: Arc<MonotonicClock>,
    settings: VirtualSettings,
}

fn rig(engines: usize) -> Rig {
    rig_at(engines, SPEED)
}

fn rig_at(engines: usize, speed: f64) -> Rig {
    rig_by(engines, speed, &RouterSettings::default())
}

fn rig_by(engines: usize, speed: f64, router: &RouterSettings) -> Rig {
    let settings = VirtualSettings { speed, ..VirtualSettings::default() };
    let (clock, faults) = (Arc::new(MonotonicClock::new()), Faults::default());
    let VirtualEngines { engines, events, handles, mover, moves } =
        VirtualEngines::start_over(Arc::new(faults.clone()), engines, &settings, clock.clone());
    let mover_box: Box<dyn dualpool_kv::KvMover> = Box::new(mover.clone());
    let telemetry = TelemetrySettings { sample_ms: 2, ..TelemetrySettings::default() };
    let fleet = Fleet::of(engines, events, Some((mover_box, moves)), router, &telemetry, clock.clone());
    Rig { fleet, engines: handles, mover, faults, clock, settings }
}

fn arrangement(policy: PolicyKind, engines: usize) -> Arrangement {
    let none = Tuning::default();
    if !policy.needs_pools() {
        return Arrangement::shared(policy.name(), policy, engines, none);
    }
    let ids: Vec<EngineId> = (0..engines as u16).map(EngineId).collect();
    let (prefill, decode) = ids.split_at(engines / 2);
    let decode_tuning = Tuning { max_num_batched_tokens: Some(128), ..none };
    Arrangement::pools(policy.name(), policy, prefill, decode, engines, none, decode_tuning, 256).unwrap()
}

fn request(index: u32, prompt_tokens: usize, max_tokens: u32) -> NewRequest {
    NewRequest {
        prompt: (0..prompt_tokens as TokenId).map(|i| i * 13 + index * 1_001 + 1).collect(),
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::default(),
        class: if prompt_tokens < 256 { Class::Short } else { Class::Long },
        priority: Priority::Normal,
        objectives: Objectives { ttft_us_max: Micros(3_000_000), itl_us_max: Micros(200_000) },
        facts: Facts { index, ..Facts::default() },
    }
}

async fn collect(mut stream: ReplyStream) -> (Vec<TokenId>, Result<(), RequestError>) {
    let mut all = Vec::new();
    loop {
        match tokio::time::timeout(HANGS, stream.next()).await.expect("the request hangs") {
            Some(Reply::Tokens { tokens, .. }) => all.extend(tokens),
            Some(Reply::End(result)) => return (all, result),
            None => panic!("the stream ended without an end"),
        }
    }
}

impl Rig {
    /// What one engine alone would answer.
    fn answer(&self, request: &NewRequest) -> Vec<TokenId> {
        let (mut kv, mut tokens) = (Fingerprint::EMPTY.extend(&request.prompt), Vec::new());
        for _ in 0..request.max_tokens {
            let token = kv.next(self.settings.vocab_size);
            kv = kv.push(token);
            tokens.push(token);
        }
        tokens
    }

    /// Serves these requests all at once; every one must end well, with the right tokens.
    async fn serve(&self, requests: &[NewRequest]) {
        let mut streams = Vec::new();
        for request in requests {
            streams.push(tokio::spawn(collect(self.fleet.submit(request.clone()).await)));
        }
        for (request, stream) in requests.iter().zip(streams) {
            let (tokens, result) = stream.await.unwrap();
            assert_eq!(result, Ok(()), "request {}", request.facts.index);
            assert_eq!(tokens, self.answer(request), "request {}", request.facts.index);
        }
    }

    async fn assert_settled(&self) {
        assert_eq!(self.fleet.settle(HANGS).await.unwrap(), Unsettled::default());
        // Free blocks in full: nothing is in use, held or reserved.
        self.fleet.reset_prefix_caches().await.unwrap();
    }
}

fn mix(count: u32) -> Vec<NewRequest> {
    (0..count).map(|i| request(i, if i % 5 == 0 { 700 + i as usize } else { 40 + i as usize % 30 }, 1 + i % 17)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_gives_the_same_tokens() {
    let rig = rig(4);
    for policy in PolicyKind::ALL {
        rig.fleet.arrange(&arrangement(policy, 4)).await.unwrap();
        rig.fleet.record(policy.name(), 0, rig.clock.now()).await;
        rig.serve(&mix(60)).await;
        rig.assert_settled().await;
        let recording = rig.fleet.recorded().await;
        assert_eq!(recording.requests.len(), 60);
        assert!(!recording.samples.is_empty(), "{}", policy.name());
        let handoffs: usize = recording.requests.iter().map(|record| record.handoffs.len()).sum();
        assert_eq!(handoffs > 0, policy.moves_kv(), "{}: {handoffs} hand-offs", policy.name());
        recording.requests.iter().for_each(check_record);
    }
    rig.fleet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_engines_cost_reaches_the_router() {
    let score = ScoreSettings { cost: 1.0, ..ScoreSettings::default() };
    let rig = rig_by(2, SPEED, &RouterSettings { cost_per_hour: vec![4.0, 1.0], score, ..RouterSettings::default() });
    rig.fleet.arrange(&arrangement(PolicyKind::Score, 2)).await.unwrap();
    rig.fleet.record("score", 0, rig.clock.now()).await;
    // One after the other: both are idle whenever one is chosen.
    for index in 0..10 {
        rig.serve(&[request(index, 40, 4)]).await;
    }
    let recording = rig.fleet.recorded().await;
    assert!(recording.requests.iter().all(|record| record.legs[0].engine == EngineId(1)), "the cheaper one");
    rig.fleet.shutdown().await;
}

/// A record's times are in order and its parts agree.
fn check_record(record: &RequestRecord) {
    assert_eq!(record.outcome, Outcome::Done);
    assert_eq!(record.tokens.len(), record.token_us.len());
    assert!(record.token_us.is_sorted() && record.arrived_us <= record.admitted_us.unwrap());
    assert!(record.admitted_us.unwrap() <= record.token_us[0] && *record.token_us.last().unwrap() <= record.ended_us);
    assert_eq!(record.legs.iter().map(|leg| leg.output_tokens as usize).sum::<usize>(), record.tokens.len());
    for handoff in &record.handoffs {
        assert!(!handoff.recomputed && handoff.bytes.0 > 0 && handoff.byte_ranges > 0);
        let (copied, took) = (handoff.copy_started_us.unwrap(), handoff.copy_us.unwrap());
        assert!(handoff.started_us <= copied && copied + took <= handoff.ended_us.unwrap(), "{handoff:?}");
        let (from, to) = (&record.legs[0], &record.legs[1]);
        assert_eq!((from.engine, to.engine, from.role, to.role), (handoff.from, handoff.to, Role::Prefill, Role::Decode));
        assert_eq!((from.output_tokens, to.cached_tokens), (1, record.prompt_tokens));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_with_random_disconnects_leave_nothing_behind() {
    let seed = 20_260_817;
    println!("seed {seed}");
    let rig = rig_at(2, 20.0);
    rig.fleet.arrange(&arrangement(PolicyKind::DualPool, 2)).await.unwrap();
    let mut rng = seeded(seed, "disconnects");
    let mut clients = Vec::new();
    for index in 0..200 {
        let request = request(index, if rng.random_bool(0.4) { 800 } else { 60 }, rng.random_range(1..40));
        let expected = rig.answer(&request);
        let patience = rng.random_bool(0.6).then(|| Duration::from_micros(rng.random_range(0..400_000)));
        let fleet = rig.fleet.clone();
        clients.push(tokio::spawn(async move {
            let stream = fleet.submit(request).await;
            match patience {
                // The stream is dropped wherever the request is by then.
                Some(patience) => drop(tokio::time::timeout(patience, collect(stream)).await),
                None => assert_eq!(collect(stream).await, (expected, Ok(()))),
            }
        }));
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..2_000))).await;
    }
    for client in clients {
        client.await.unwrap();
    }
    rig.assert_settled().await;
    rig.serve(&mix(20)).await;
    rig.assert_settled().await;
    rig.fleet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_cancels_even_when_no_token_flows() {
    // Many short steps before the first token: 1000 prompt tokens in chunks of 16.
    let rig = rig_at(2, 1.0);
    let small = Tuning { max_num_batched_tokens: Some(16), ..Tuning::default() };
    let arrangement = Arrangement::shared("slow", PolicyKind::RoundRobin, 2, small);
    rig.fleet.arrange(&arrangement).await.unwrap();
    rig.fleet.record("slow", 0, rig.clock.now()).await;
    let stream = rig.fleet.submit(request(0, 1000, 8)).await;
    // A cache cannot be reset once a leg is on the engine.
    while rig.fleet.reset_prefix_caches().await.is_ok() {
        tokio::task::yield_now().await;
    }
    drop(stream);
    rig.assert_settled().await;
    let recorded = rig.fleet.recorded().await.requests;
    assert!(recorded[0].tokens.is_empty());
    assert_eq!(recorded[0].outcome, Outcome::Failed { error: RequestError::Cancelled { phase: Phase::Prefill } });
    rig.fleet.shutdown().await;
}

/// Which engine is killed, and while it does what.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kill {
    SourceInPrefill,
    SourceDuringCopy,
    TargetDuringCopy,
    TargetInDecode,
}

impl Kill {
    fn victim(self) -> EngineId {
        match self {
            Kill::SourceInPrefill | Kill::SourceDuringCopy => EngineId(0),
            Kill::TargetDuringCopy | Kill::TargetInDecode => EngineId(1),
        }
    }

    /// Whether the kill hit this request where it was meant to.
    fn hit(self, record: &RequestRecord) -> bool {
        let (from, to) = (|handoff: &HandoffRecord| handoff.from, |handoff: &HandoffRecord| handoff.to);
        let copy_lost = |end: fn(&HandoffRecord) -> EngineId| {
            record.handoffs.iter().any(|handoff| end(handoff) == self.victim() && handoff.copy_us.is_none())
        };
        let leg_lost = |started: bool| {
            let lost = |leg: &LegRecord| leg.engine == self.victim() && leg.ended_us.is_none();
            record.legs.iter().any(|leg| lost(leg) && leg.first_token_us.is_some() == started)
        };
        match self {
            Kill::SourceInPrefill => leg_lost(false),
            Kill::SourceDuringCopy => copy_lost(from),
            Kill::TargetDuringCopy => copy_lost(to),
            Kill::TargetInDecode => leg_lost(true),
        }
    }
}

/// One engine prefills every prompt, and two decode.
async fn disaggregated() -> Rig {
    let rig = rig_at(3, 20.0);
    let (policy, none) = (PolicyKind::FullDisaggregation, Tuning::default());
    let pools = Arrangement::pools("disaggregated", policy, &[EngineId(0)], &[EngineId(1), EngineId(2)], 3, none, none, 256);
    rig.fleet.arrange(&pools.unwrap()).await.unwrap();
    rig
}

/// Submits 24 requests, does `what` once the first four have this many tokens, and checks that all are served in full.
async fn serve_through(rig: &Rig, tokens_before: usize, what: impl AsyncFnOnce()) {
    let requests: Vec<NewRequest> = (0..24).map(|i| request(i, 200 + i as usize, 30)).collect();
    let mut streams = Vec::new();
    for request in &requests {
        streams.push(rig.fleet.submit(request.clone()).await);
    }
    let mut early = vec![Vec::new(); requests.len()];
    for (early, stream) in early.iter_mut().zip(&mut streams).take(4) {
        while early.len() < tokens_before {
            match tokio::time::timeout(HANGS, stream.next()).await.expect("the request hangs") {
                Some(Reply::Tokens { tokens, .. }) => early.extend(tokens),
                other => panic!("expected tokens, got {other:?}"),
            }
        }
    }
    what().await;
    for ((request, stream), mut tokens) in requests.iter().zip(streams).zip(early) {
        let (rest, result) = collect(stream).await;
        tokens.extend(rest);
        assert_eq!(result, Ok(()), "request {}", request.facts.index);
        assert_eq!(tokens, rig.answer(request), "request {}", request.facts.index);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_in_any_phase_loses_no_request() {
    for kill in [Kill::SourceInPrefill, Kill::SourceDuringCopy, Kill::TargetDuringCopy, Kill::TargetInDecode] {
        println!("{kill:?}");
        let rig = disaggregated().await;
        if matches!(kill, Kill::SourceDuringCopy | Kill::TargetDuringCopy) {
            rig.faults.inject(Fault::Delay(Micros(4_000_000)));
        }
        rig.fleet.record("kill", 0, rig.clock.now()).await;
        // With the first tokens, some prompts are computed and others not; with a few more, requests decode.
        let tokens_before = if kill == Kill::TargetInDecode { 4 } else { 1 };
        serve_through(&rig, tokens_before, async || rig.engines[kill.victim().index()].kill()).await;
        rig.assert_settled().await;
        let records = rig.fleet.recorded().await.requests;
        assert!(records.iter().any(|record| kill.hit(record)), "{kill:?} hit no request there");
        assert_eq!(rig.fleet.dead_engines().await, [kill.victim()]);
        rig.serve(&mix(10)).await;
        rig.fleet.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_link_is_cut_goes_on_without_hand_offs() {
    for cut in [0, 1].map(EngineId) {
        let rig = disaggregated().await;
        rig.faults.inject(Fault::Delay(Micros(4_000_000)));
        serve_through(&rig, 1, async || rig.mover.cut(cut).await).await;
        rig.assert_settled().await;
        assert_eq!((rig.fleet.cut_engines().await, rig.fleet.dead_engines().await), (vec![cut], vec![]));
        rig.faults.inject(Fault::None);
        rig.fleet.record("cut", 0, rig.clock.now()).await;
        rig.serve(&mix(20)).await;
        rig.assert_settled().await;
        let records = rig.fleet.recorded().await.requests;
        assert!(records.iter().flat_map(|record| &record.handoffs).all(|handoff| handoff.from != cut && handoff.to != cut));
        rig.fleet.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_engines_dead_requests_end_with_an_error_that_names_one() {
    let rig = rig_at(2, 1.0);
    rig.fleet.arrange(&arrangement(PolicyKind::DualPool, 2)).await.unwrap();
    let stream = rig.fleet.submit(request(0, 1000, 500)).await;
    rig.engines.iter().for_each(VirtualEngine::kill);
    let (_, result) = collect(stream).await;
    let text = result.unwrap_err().to_string();
    assert!(text.contains("engine-") && text.contains("died during") && text.contains("killed"), "{text}");
    let (_, result) = collect(rig.fleet.submit(request(1, 10, 5)).await).await;
    assert_eq!(result, Err(RequestError::Rejected { reason: RejectReason::NoEngine }));
    assert_eq!(rig.fleet.settle(HANGS).await.unwrap(), Unsettled::default());
    rig.fleet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_copies_are_recomputed_and_said_so() {
    let rig = rig(2);
    rig.fleet.arrange(&arrangement(PolicyKind::FullDisaggregation, 2)).await.unwrap();
    rig.faults.inject(Fault::FailCopy);
    rig.fleet.record("fail", 0, rig.clock.now()).await;
    rig.serve(&(0..10).map(|i| request(i, 300, 6)).collect::<Vec<_>>()).await;
    rig.assert_settled().await;
    for record in rig.fleet.recorded().await.requests {
        assert!(record.handoffs[0].recomputed && record.handoffs[0].copy_us.is_none());
        assert_eq!(record.legs[1].cached_tokens, 0);
    }
    rig.fleet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kv_that_is_not_whole_shows_in_the_tokens() {
    let rig = rig(2);
    rig.fleet.arrange(&arrangement(PolicyKind::FullDisaggregation, 2)).await.unwrap();
    rig.faults.inject(Fault::SkipPart);
    let wanted = request(0, 300, 6);
    let (tokens, result) = collect(rig.fleet.submit(wanted.clone()).await).await;
    let right = rig.answer(&wanted);
    assert_eq!((result, tokens[0]), (Ok(()), right[0]), "the first token is made before the move");
    assert_ne!(tokens, right);
    rig.fleet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_rejected_with_the_reason() {
    let rig = rig(2);
    for (prompt_tokens, max_tokens, expected) in
        [(0, 5, "the prompt is empty"), (10, 0, "max_tokens is 0"), (5_000, 5, "over the model's context of 4608")]
    {
        let (tokens, result) = collect(rig.fleet.submit(request(0, prompt_tokens, max_tokens)).await).await;
        let text = result.unwrap_err().to_string();
        assert!(tokens.is_empty() && text.contains(expected), "{text}");
    }
    rig.fleet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_max_in_flight_are_turned_away_and_the_rest_served() {
    let settings = VirtualSettings { speed: SPEED, ..VirtualSettings::default() };
    let clock = Arc::new(MonotonicClock::new());
    let VirtualEngines { engines, events, mover, moves, .. } = VirtualEngines::start(2, &settings, clock.clone());
    let router = RouterSettings { max_in_flight: 8, ..RouterSettings::default() };
    let mover: Box<dyn dualpool_kv::KvMover> = Box::new(mover);
    let fleet = Fleet::of(engines, events, Some((mover, moves)), &router, &TelemetrySettings::default(), clock);
    let mut streams = Vec::new();
    for index in 0..40 {
        streams.push(fleet.submit(request(index, 1000, 30)).await);
    }
    let (mut served, mut rejected) = (0, 0);
    for stream in streams {
        match collect(stream).await.1 {
            Ok(()) => served += 1,
            Err(RequestError::Rejected { reason: RejectReason::TooManyInFlight { in_flight: 8 } }) => rejected += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(served >= 8 && rejected > 0 && served + rejected == 40, "{served} served, {rejected} rejected");
    fleet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_what_is_in_flight_and_later_requests() {
    let rig = rig_at(2, 0.1);
    let stream = rig.fleet.submit(request(0, 1000, 30)).await;
    rig.fleet.shutdown().await;
    assert_eq!(collect(stream).await.1, Err(RequestError::ShutDown { phase: Phase::Prefill }));
    let (_, result) = collect(rig.fleet.submit(request(1, 10, 3)).await).await;
    assert_eq!(result, Err(RequestError::Rejected { reason: RejectReason::ShuttingDown }));
    assert!(rig.fleet.settle(HANGS).await.is_err(), "the fleet has shut down and cannot tell");
    assert!(rig.fleet.arrange(&arrangement(PolicyKind::DualPool, 2)).await.is_err());
    rig.fleet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arrangement_waits_for_the_fleet_and_wrong_ones_are_refused() {
    let rig = rig(2);
    let stream = rig.fleet.submit(request(0, 500, 40)).await;
    rig.fleet.arrange(&arrangement(PolicyKind::DualPool, 2)).await.unwrap();
    assert_eq!(collect(stream).await.1, Ok(()));
    let error = rig.fleet.arrange(&arrangement(PolicyKind::DualPool, 4)).await.unwrap_err();
    assert!(error.to_string().contains("4 roles for 2 engines"), "{error}");
    rig.fleet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_say_nothing_of_an_engine_that_has_not_reported() {
    let rig = rig(2);
    rig.fleet.record("idle", 0, rig.clock.now()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let samples = rig.fleet.recorded().await.samples;
    assert!(!samples.is_empty() && samples.iter().all(|sample| sample.kv_usage.is_none() && sample.prefix_hits.is_none()));
    rig.fleet.shutdown().await;
}

/// Whatever is under way goes on elsewhere with the same tokens, and the records say what moved.
#[tokio::test(flavor = "multi_thread")]
async fn a_drained_engine_is_emptied_and_serves_again_when_told() {
    let rig = rig_at(3, 4.0);
    let (a, b) = (EngineId(0), EngineId(1));
    rig.fleet.arrange(&arrangement(PolicyKind::LeastLoad, 3)).await.unwrap();
    rig.fleet.record("drain", 0, rig.clock.now()).await;
    let requests: Vec<NewRequest> = (0..24).map(|i| request(i, 40 + i as usize, 120)).collect();
    let ((), (first, second)) = tokio::join!(rig.serve(&requests), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        tokio::join!(rig.fleet.drain(a), rig.fleet.drain(a))
    });
    assert!(first.is_ok() && second.is_ok(), "{first:?}, {second:?}");
    rig.assert_settled().await;
    let Recording { requests: records, notes, drained, .. } = rig.fleet.recorded().await;
    assert_eq!(drained, [a]);
    let live =
        records.iter().flat_map(|record| &record.handoffs).filter(|handoff| handoff.kind == HandoffKind::LiveMigration).count();
    let noted = notes.iter().filter(|note| matches!(note.note, RouterNote::Migrated { from, .. } if from == a)).count();
    assert!(live > 0 && live == noted, "{live} moved, {noted} noted");
    for record in records.iter().filter(|record| record.legs.len() == 2) {
        assert_eq!(record.handoffs.len(), 1);
        let (from, to) = (&record.legs[0], &record.legs[1]);
        assert_eq!(
            (from.engine, to.cached_tokens),
            (a, record.prompt_tokens + from.output_tokens - 1),
            "all but the last token's KV"
        );
    }

    rig.fleet.drain(b).await.unwrap();
    let refused = rig.fleet.drain(EngineId(2)).await.unwrap_err();
    assert_eq!(refused.downcast_ref(), Some(&DrainError::Last { engine: EngineId(2) }));
    rig.fleet.undrain(a).await.unwrap();
    rig.serve(&[request(30, 50, 4)]).await;

    // One that dies while it is drained says so.
    let waiting = tokio::spawn(collect(rig.fleet.submit(request(31, 50, 100)).await));
    tokio::time::sleep(Duration::from_millis(50)).await;
    rig.engines[1].kill();
    rig.engines[2].kill();
    waiting.await.unwrap().1.unwrap();
    assert!(rig.fleet.drain(b).await.unwrap_err().to_string().contains("engine-1 is dead"));
    rig.assert_settled().await;
    rig.fleet.shutdown().await;
}

/// An engine whose scheduler settings cannot be changed.
struct Untunable(VirtualEngine);

#[async_trait::async_trait]
impl Engine for Untunable {
    fn info(&self) -> &EngineInfo {
        self.0.info()
    }

    fn submit(&self, leg: Leg) {
        self.0.submit(leg);
    }

    fn abort(&self, leg: LegId) {
        self.0.abort(leg);
    }

    fn detach(&self, leg: LegId) {
        self.0.detach(leg);
    }

    fn tune(&self, _: Tuning) -> anyhow::Result<()> {
        Err(anyhow::anyhow!("the disk is full"))
    }

    async fn reset_prefix_cache(&self) -> bool {
        self.0.reset_prefix_cache().await
    }

    async fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, TokenizeError> {
        self.0.tokenize(text).await
    }

    async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arrangement_fails_with_the_engine_that_does_not_take_its_settings() {
    let clock = Arc::new(MonotonicClock::new());
    let VirtualEngines { events, handles, mover, moves, .. } = VirtualEngines::start(2, &VirtualSettings::default(), clock.clone());
    let engines = [Box::new(handles[0].clone()) as Box<dyn Engine>, Box::new(Untunable(handles[1].clone()))].into_iter().collect();
    let mover: Box<dyn dualpool_kv::KvMover> = Box::new(mover);
    let (router, telemetry) = (RouterSettings::default(), TelemetrySettings::default());
    let fleet = Fleet::of(engines, events, Some((mover, moves)), &router, &telemetry, clock);
    let error = fleet.arrange(&arrangement(PolicyKind::DualPool, 2)).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(["dual_pool", "engine-1", "the disk is full"].iter().all(|part| text.contains(part)), "{text}");
    fleet.shutdown().await;
}
