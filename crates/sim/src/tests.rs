//! What a simulation does with what it is given. Whether the router does right is for `torture`.

use std::cell::Cell;
use std::sync::Arc;

use dualpool_model::text_after;
use dualpool_router::ScoreSettings;
use dualpool_types::records::Outcome;
use dualpool_types::{Class, EngineId, Objectives, PolicyKind, Priority, RequestId, Sampling, TokenId, Tuning};

use super::*;

fn request(prompt_tokens: u32, max_tokens: u32) -> Request {
    let prompt: Arc<[TokenId]> = (1..=prompt_tokens).collect();
    Request {
        id: RequestId(0),
        prompt,
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::default(),
        class: Class::Short,
        priority: Priority::Normal,
        objectives: Objectives { ttft_us_max: Micros(1_000_000), itl_us_max: Micros(1_000_000) },
    }
}

fn shared(engines: usize) -> Arrangement {
    Arrangement::shared("shared", PolicyKind::RoundRobin, engines, Tuning::default())
}

fn split() -> Arrangement {
    let (tuning, policy) = (Tuning::default(), PolicyKind::FullDisaggregation);
    Arrangement::pools("split", policy, &[EngineId(0)], &[EngineId(1)], 2, tuning, tuning, 256).unwrap()
}

fn simulation<'a>(
    engines: &'a [VirtualSettings],
    arrangement: &'a Arrangement,
    router: &'a RouterSettings,
    faults: &'a Faults,
) -> Simulation<'a> {
    Simulation { engines, arrangement, router, costs: CostModel::default(), faults, seed: 1 }
}

fn run(
    arrangement: &Arrangement,
    engines: &[VirtualSettings],
    faults: &Faults,
    requests: Vec<(Time, Request)>,
) -> (Vec<RequestRecord>, Totals) {
    let router = RouterSettings::default();
    let mut records = Vec::new();
    let totals = simulation(engines, arrangement, &router, faults).serve(requests, |record| records.push(record)).unwrap();
    (records, totals)
}

#[test]
fn requests_are_taken_as_they_arrive_and_not_before() {
    let (taken, ended) = (Cell::new(0u32), Cell::new(0u32));
    let waiting = Cell::new(0u32);
    let requests = (0..500u64).map(|second| {
        waiting.set(waiting.get().max(taken.get() - ended.get()));
        taken.set(taken.get() + 1);
        (Time(second * 10_000_000), request(16, 2))
    });
    let (engines, arrangement) = (vec![VirtualSettings::default(); 2], shared(2));
    let (router, faults) = (RouterSettings::default(), Faults::default());
    let simulation = simulation(&engines, &arrangement, &router, &faults);
    let totals = simulation.serve(requests, |_| ended.set(ended.get() + 1)).unwrap();
    assert_eq!((taken.get(), ended.get(), totals.requests, totals.in_flight_max), (500, 500, 500, 1));
    assert_eq!(waiting.get(), 1, "the one that is served when the next one is looked at");
}

#[test]
fn a_cheaper_engine_is_taken_while_both_are_idle_when_cost_has_a_weight() {
    let (engines, faults) = (vec![VirtualSettings::default(); 2], Faults::default());
    let arrangement = Arrangement::shared("score", PolicyKind::Score, 2, Tuning::default());
    let on_first = |cost: f64, cost_per_hour: Vec<f64>| {
        let score = ScoreSettings { cost, ..ScoreSettings::default() };
        let router = RouterSettings { cost_per_hour, score, ..RouterSettings::default() };
        let simulation = simulation(&engines, &arrangement, &router, &faults);
        let (requests, mut first) = ((0..20).map(|i| (Time(i * 20_000_000), request(64, 4))), 0);
        simulation.serve(requests, |record| first += u32::from(record.legs[0].engine == EngineId(0))).unwrap();
        first
    };
    assert_eq!((on_first(1.0, vec![4.0, 1.0]), on_first(1.0, vec![1.0, 4.0])), (0, 20));
    // Without a weight, and where the settings do not say what the engines cost, both serve.
    for of_both in [on_first(0.0, vec![4.0, 1.0]), on_first(1.0, Vec::new())] {
        assert!((1..20).contains(&of_both), "{of_both} of 20");
    }
}

#[test]
fn engines_may_differ_and_totals_tell_them_apart() {
    let slow = VirtualSettings::default();
    let fast = VirtualSettings { timing: Timing { prefill_us: 10.0, ..slow.timing }, ..slow.clone() };
    let requests = (0..20).map(|i| (Time(i * 2_000_000), request(500, 4))).collect();
    let (records, totals) = run(&shared(2), &[slow, fast], &Faults::default(), requests);
    assert!(records.iter().all(|record| record.outcome == Outcome::Done && record.legs.len() == 1));
    let [slow, fast] = &totals.engines[..] else { panic!("{totals:?}") };
    assert_eq!((slow.output_tokens, fast.output_tokens), (40, 40));
    assert!(slow.busy.0 > 3 * fast.busy.0, "{slow:?} {fast:?}");
    assert!(slow.queue_mean > fast.queue_mean && slow.queue_max == 1);
    // The first prompt is computed, and found by those that follow it.
    assert_eq!(slow.prompt_tokens_computed + slow.prompt_tokens_cached, 10 * 500);
    assert_eq!(slow.prompt_tokens_cached, 9 * 384);
    assert_eq!(totals.steps, slow.steps + fast.steps);
}

#[test]
fn an_engine_that_dies_loses_nothing_but_time() {
    let death = EngineDeath { at: vec![DeathAt { engine: EngineId(0), at_ms: 300 }], noticed_after_ms: 50, ..Default::default() };
    let faults = Faults { engine_death: death, ..Faults::default() };
    let requests: Vec<_> = (0..8).map(|i| (Time(i), request(40 + i as u32, 30))).collect();
    let (records, totals) = run(&shared(2), &vec![VirtualSettings::default(); 2], &faults, requests.clone());
    assert_eq!(totals.engines[0].died, Some(Micros(300_000)));
    assert_eq!((totals.engines[1].died, totals.blocks_leaked, totals.unsettled), (None, 0, 0));
    for record in &records {
        let request = &requests[record.index as usize].1;
        assert_eq!(record.tokens, text_after(&request.prompt, request.max_tokens, true, 32_000).0);
    }
    let moved: Vec<_> = records.iter().filter(|record| record.legs.len() == 2).collect();
    assert_eq!(moved.len(), 4, "those that were on it");
    assert!(moved.iter().all(|record| record.legs[1].submitted_us == Micros(350_000)), "when the router hears of it");
}

#[test]
fn a_slow_link_slows_what_goes_over_it_while_it_is_slow() {
    let requests: Vec<_> = (0..6).map(|i| (Time(i * 5_000_000), request(200 + i as u32, 3))).collect();
    let slow = SlowLink { engine: EngineId(1), from_ms: 10_000, to_ms: 20_000, factor: 10.0 };
    let faults = Faults { slow_link: vec![slow], ..Faults::default() };
    let (records, totals) = run(&split(), &vec![VirtualSettings::default(); 2], &faults, requests);
    let copies: Vec<u64> = records.iter().map(|record| record.handoffs[0].copy_us.unwrap().0).collect();
    let usual = |tokens: u32| Timing::default().copy(tokens).0;
    let expected: Vec<u64> = (0..6).map(|i| usual(200 + i) * if (2..4).contains(&i) { 10 } else { 1 }).collect();
    assert_eq!(copies, expected);
    assert_eq!(totals.engines[1].moves_in, 6);
}

#[test]
fn a_copy_that_fails_is_computed_again_and_a_lost_release_costs_a_lease() {
    let requests: Vec<_> = (0..5).map(|i| (Time(i * 1_000_000), request(300 + i as u32, 4))).collect();
    let faults = Faults {
        failed_copies: 1.0,
        lost_messages: LostMessages { releases: 1.0, ..Default::default() },
        lease_ms: 700,
        ..Faults::default()
    };
    let (records, totals) = run(&split(), &vec![VirtualSettings::default(); 2], &faults, requests);
    assert!(records.iter().all(|record| record.outcome == Outcome::Done && record.handoffs[0].recomputed));
    assert_eq!((totals.leases_expired, totals.blocks_leaked), (5, 0));
    assert_eq!(totals.engines[1].moves_in, 0);
}

#[test]
fn without_a_link_requests_stay_where_they_are_prefilled() {
    let requests: Vec<_> = (0..4).map(|i| (Time(i * 1_000_000), request(300 + i as u32, 4))).collect();
    let faults = Faults { cut_link: vec![CutLink { engine: EngineId(1), at_ms: 1_500 }], ..Faults::default() };
    let (records, totals) = run(&split(), &vec![VirtualSettings::default(); 2], &faults, requests);
    assert!(records.iter().all(|record| record.outcome == Outcome::Done));
    assert_eq!((totals.engines[1].moves_in, totals.blocks_leaked), (2, 0));
    assert!(records[2..].iter().all(|record| record.legs.iter().all(|leg| leg.engine == EngineId(0))));
}

#[test]
fn clients_leave_and_reports_come_late_or_never() {
    let requests: Vec<_> = (0..20).map(|i| (Time(i * 1_000), request(100, 50))).collect();
    let faults = Faults {
        clients_leave: ClientsLeave { share: 1.0, within_ms: 0 },
        stale_telemetry: StaleTelemetry { late_ms: 10, dropped: 0.5 },
        ..Faults::default()
    };
    let (records, totals) = run(&shared(2), &vec![VirtualSettings::default(); 2], &faults, requests);
    assert_eq!((records.len(), totals.blocks_leaked, totals.unsettled), (20, 0, 0));
    let cancelled = |record: &&RequestRecord| {
        matches!(record.outcome, Outcome::Failed { error: dualpool_types::RequestError::Cancelled { .. } })
    };
    assert_eq!(records.iter().filter(cancelled).count(), 20);
}

#[test]
fn samples_come_at_their_times_while_anything_is_in_flight() {
    let (engines, arrangement, router, faults) =
        (vec![VirtualSettings::default(); 2], shared(2), RouterSettings::default(), Faults::default());
    let simulation = simulation(&engines, &arrangement, &router, &faults);
    let mut recorder = Recorder::default();
    recorder.start(Run::of("samples"), Vec::new());
    let requests = [(Time(50_000), request(500, 2)), (Time(60_000_000), request(500, 2))];
    simulation.journal(requests, Some(Micros(100_000)), &mut recorder).unwrap();
    let samples = recorder.end().samples;
    let at: Vec<u64> = samples.iter().filter(|sample| sample.engine == EngineId(0)).map(|sample| sample.at_us.0).collect();
    assert_eq!(at[..3], [100_000, 200_000, 300_000]);
    assert!(at.iter().all(|at| at % 100_000 == 0) && !at.iter().any(|at| (2_000_000..60_000_000).contains(at)), "{at:?}");
    assert_eq!(samples[0].waiting, 1);
}

#[test]
fn a_fault_that_cannot_be_is_refused() {
    let faults = Faults { failed_copies: 2.0, ..Faults::default() };
    let (engines, arrangement, router) = (vec![VirtualSettings::default()], shared(1), RouterSettings::default());
    let simulation = simulation(&engines, &arrangement, &router, &faults);
    let error = simulation.serve([], |_| {}).unwrap_err().to_string();
    assert!(error.contains("failed_copies is 2"), "{error}");
}
