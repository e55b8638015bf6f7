//! Which requests are admitted, which wait and which are rejected.

use std::collections::BTreeMap;

use rand::Rng as _;

use dualpool_router::{Action, AdmissionSettings, EarlyRejection, Event, RouterSettings, WindowKind};
use dualpool_types::records::RouterNote;
use dualpool_types::{
    Arrangement, FinishReason, LegId, Micros, Objectives, Phase, PolicyKind, Priority, RejectReason, RequestError, RequestId, Time,
    Tuning, seeded,
};

use super::script::{A, B, Stage, prompt, split};

pub const PATIENT: Objectives = Objectives { ttft_us_max: Micros(3_600_000_000), itl_us_max: Micros(3_600_000_000) };

fn stage(max_in_flight: u32, admission: AdmissionSettings) -> Stage {
    let settings = RouterSettings { max_in_flight, admission, ..RouterSettings::default() };
    Stage::with(1, &Arrangement::shared("ll", PolicyKind::LeastLoad, 1, Tuning::default()), &settings)
}

fn queue(queue_max: u32) -> AdmissionSettings {
    AdmissionSettings { queue_max, patience_ms: [0, 100, 300], ..AdmissionSettings::default() }
}

fn result(stage: &Stage, request: u64) -> Option<Result<(), RequestError>> {
    stage.result(RequestId(request)).clone()
}

pub fn rejection(stage: &Stage, request: u64) -> Option<RejectReason> {
    match result(stage, request) {
        Some(Err(RequestError::Rejected { reason })) => Some(reason),
        _ => None,
    }
}

fn submitted(actions: &[Action]) -> Vec<u64> {
    let leg = |action: &Action| match action {
        Action::Submit { leg, .. } => Some(leg.id.request.0),
        _ => None,
    };
    actions.iter().filter_map(leg).collect()
}

#[test]
fn who_waits_is_let_in_one_by_one_the_highest_priority_first() {
    let mut stage = stage(1, queue(4));
    assert_eq!(submitted(&stage.arrive_as(Priority::Low, 0, 64, 1, PATIENT)), [0]);
    for (request, priority) in [(1, Priority::Low), (2, Priority::Normal), (3, Priority::High), (4, Priority::High)] {
        assert_eq!(stage.arrive_as(priority, request, 64, 1, PATIENT), []);
    }
    assert_eq!((stage.router().admission().queued, stage.router().in_flight()), ([2, 1, 1], 5));
    assert_eq!(stage.arrive_as(Priority::High, 3, 64, 1, PATIENT), [], "its id waits already");
    let mut order = Vec::new();
    for request in [0, 3, 4, 2, 1] {
        let leg = LegId { request: RequestId(request), leg: 0 };
        order.extend(submitted(&stage.give(leg, 1)));
    }
    assert_eq!(order, [3, 4, 2, 1]);
    stage.check_over();
}

#[test]
fn whoever_goes_while_waiting_ends_in_admission() {
    let mut stage = stage(1, queue(4));
    for request in 0..4 {
        stage.arrive(request, 64, 1);
    }
    assert_eq!(stage.cancel(2).len(), 1, "no engine knows of it");
    assert_eq!(result(&stage, 2), Some(Err(RequestError::Cancelled { phase: Phase::Admission })));
    stage.cancel(0);
    assert_eq!(stage.router().admission().queued, [0, 2, 0], "the engine has yet to end the leg");
    assert_eq!(submitted(&stage.end(LegId { request: RequestId(0), leg: 0 }, &[], &FinishReason::Aborted)), [1]);
    stage.feed(Event::ShutDown);
    assert_eq!(result(&stage, 1), Some(Err(RequestError::ShutDown { phase: Phase::Prefill })));
    assert_eq!(result(&stage, 3), Some(Err(RequestError::ShutDown { phase: Phase::Admission })));
    stage.end(LegId { request: RequestId(1), leg: 0 }, &[], &FinishReason::Aborted);
    stage.check_over();
}

#[test]
fn the_queue_outlives_an_engine_but_not_the_last_one() {
    let settings = RouterSettings { max_in_flight: 2, resumes_max: 0, admission: queue(4), ..RouterSettings::default() };
    let mut stage = Stage::with(2, &Arrangement::shared("rr", PolicyKind::RoundRobin, 2, Tuning::default()), &settings);
    for request in 0..6 {
        stage.arrive(request, 64, 2);
    }
    assert_eq!(submitted(&stage.die(A)), [2], "one place is free, and one engine");
    assert_eq!(submitted(&stage.die(B)), [0; 0]);
    let no_engine = Some(RejectReason::NoEngine);
    assert_eq!([4, 5].map(|request| rejection(&stage, request)), [no_engine.clone(), no_engine]);
    stage.check_over();
}

#[test]
fn a_full_queue_says_so_and_when_to_come_back() {
    let mut stage = stage(1, queue(2));
    for request in 0..4 {
        stage.arrive(request, 64, 1);
    }
    let Some(reason @ RejectReason::QueueFull { queued: 2, .. }) = rejection(&stage, 3) else { panic!("{:?}", result(&stage, 3)) };
    assert!(reason.retry_after_ms().is_some_and(|ms| (10..=60_000).contains(&ms)), "{reason}");
    assert!(
        reason.to_string().starts_with("2 requests of priority 2 wait, the most that `router.admission.queue_max`"),
        "{reason}"
    );
    assert_eq!(serde_json::from_str::<RejectReason>(&serde_json::to_string(&reason).unwrap()).unwrap(), reason);
    stage.arrive_as(Priority::High, 4, 64, 1, PATIENT);
    assert_eq!(stage.router().admission().queued, [1, 2, 0], "each priority has places of its own");
    for request in [0, 4, 1, 2] {
        stage.give(LegId { request: RequestId(request), leg: 0 }, 1);
    }
    stage.check_over();
}

#[test]
fn the_lowest_priority_does_not_starve_behind_an_endless_stream_of_the_highest() {
    const SERVICE_MS: u64 = 20;
    const PATIENCE_MS: u64 = 300;
    const QUEUE_MAX: u32 = 8;
    // Once a request has waited for its patience no other overtakes it: by then so many are ahead, and each frees a place in so long.
    const WAIT_MS_MAX: u64 = PATIENCE_MS + (3 * QUEUE_MAX as u64 + 2) * (SERVICE_MS + 5);
    let mut stage = stage(1, queue(QUEUE_MAX));
    let (mut arrived, mut lows, mut served) = (BTreeMap::new(), 0, BTreeMap::new());
    for round in 0..500 {
        // As much as the engine can do comes with priority 1 alone.
        let start = stage.now;
        let low = round % 10 == 0 && round < 400;
        let priorities = [Some(Priority::High), low.then_some(Priority::Low)];
        for priority in priorities.into_iter().flatten() {
            let request = arrived.len() as u64;
            lows += u64::from(priority == Priority::Low);
            arrived.insert(request, (stage.now, priority));
            for request in submitted(&stage.arrive_as(priority, request, 64, 1, PATIENT)) {
                served.insert(request, stage.now);
            }
        }
        stage.now = start.plus(Micros(SERVICE_MS * 1_000));
        let leg = stage.live.keys().next().copied();
        for request in leg.map(|leg| submitted(&stage.give(leg, 1))).unwrap_or_default() {
            served.insert(request, stage.now);
        }
    }
    let mut overtaken = 0;
    for (request, (at, priority)) in &arrived {
        if *priority != Priority::Low {
            continue;
        }
        let wait = served.get(request).map(|served: &Time| served.since(*at)).expect("a request of priority 3 was never served");
        assert!(wait <= Micros(WAIT_MS_MAX * 1_000), "request-{request} waited for {wait}");
        overtaken += u64::from(wait >= Micros(PATIENCE_MS * 500));
    }
    assert!(lows == 40 && overtaken > 20, "the stream was no load: {overtaken} of {lows} waited");
}

#[test]
fn the_window_bounds_what_is_under_way_and_lets_one_long_prompt_pass() {
    let window = AdmissionSettings { window: WindowKind::Aimd, window_tokens_max: 1_000, ..queue(8) };
    let mut stage = stage(100, window);
    for request in 0..3 {
        stage.arrive_with(request, 400, 4, PATIENT);
    }
    stage.arrive_with(3, 3_000, 4, PATIENT);
    stage.arrive_with(4, 10, 4, PATIENT);
    let state = stage.router().admission();
    assert_eq!((state.window_tokens, state.tokens_in_flight, state.queued), (Some(1_000), 800, [0, 3, 0]));
    let leg = |request| LegId { request: RequestId(request), leg: 0 };
    assert_eq!(submitted(&stage.give(leg(0), 1)), [2]);
    assert_eq!(submitted(&stage.give(leg(1), 1)), [0; 0], "the small one does not overtake the long one");
    assert_eq!(submitted(&stage.give(leg(2), 1)), [3], "longer than the window, and alone");
    assert_eq!(submitted(&stage.give(leg(3), 1)), [4]);
    for request in 0..5 {
        stage.give(leg(request), 4);
    }
    stage.check_over();
}

#[test]
fn late_first_tokens_narrow_the_window_and_leave_a_note() {
    let window = AdmissionSettings { window: WindowKind::Aimd, window_tokens_max: 4_000, ..queue(8) };
    let mut stage = stage(100, window);
    stage.feed(Event::Tick);
    let objectives = Objectives { ttft_us_max: Micros(500_000), ..PATIENT };
    for request in 0..8 {
        stage.arrive_with(request, 400, 1, objectives);
    }
    stage.now = stage.now.plus(Micros(2_000_000));
    for request in 0..8 {
        stage.give(LegId { request: RequestId(request), leg: 0 }, 1);
    }
    let narrow = stage.router().admission().window_tokens.unwrap();
    assert!(narrow < 2_500, "{narrow}");
    let notes = stage.feed(Event::Tick);
    let noted = |action: &Action| matches!(action, Action::Note(note) if matches!(**note, RouterNote::Admission(_)));
    assert!(notes.len() == 1 && notes.iter().all(noted), "{notes:?}");
    assert_eq!(stage.feed(Event::Tick), [], "nothing has changed");
    stage.check_over();
}

fn rejecting(reject: EarlyRejection) -> RouterSettings {
    let admission = AdmissionSettings { reject, ..AdmissionSettings::default() };
    RouterSettings { admission, ..RouterSettings::default() }
}

#[test]
fn what_would_be_late_is_rejected_with_the_reason_and_what_has_time_is_not() {
    for reject in [EarlyRejection::Off, EarlyRejection::Naive, EarlyRejection::Predictive] {
        let shared = Arrangement::shared("ll", PolicyKind::LeastLoad, 1, Tuning::default());
        let mut stage = Stage::with(1, &shared, &rejecting(reject));
        stage.arrive_with(0, 3_000, 2, PATIENT);
        // About 2.1 s of prompts are ahead of it.
        let hurried = Objectives { ttft_us_max: Micros(1_000_000), ..PATIENT };
        stage.arrive_with(1, 100, 2, hurried);
        stage.arrive_with(2, 100, 2, PATIENT);
        assert_eq!(rejection(&stage, 2), None);
        match rejection(&stage, 1) {
            None => assert_eq!(reject, EarlyRejection::Off),
            Some(RejectReason::WouldMissTtft { predicted_ms, allowed_ms: 850, objective_ms: 1_000, retry_after_ms }) => {
                assert!(reject != EarlyRejection::Off && (2_000..2_300).contains(&predicted_ms), "{predicted_ms}");
                assert_eq!(retry_after_ms, predicted_ms - 850);
                assert_eq!(stage.router().admission().rejected, [0, 1, 0]);
            }
            Some(other) => panic!("{other}"),
        }
        stage.feed(Event::ShutDown);
    }
}

#[test]
fn who_waits_too_long_to_be_in_time_is_told_so() {
    let settings = AdmissionSettings { reject: EarlyRejection::Naive, ..queue(4) };
    let mut stage = stage(1, settings);
    stage.arrive_with(0, 64, 2, PATIENT);
    stage.arrive_with(1, 64, 2, Objectives { ttft_us_max: Micros(1_000_000), ..PATIENT });
    stage.feed(Event::Tick);
    assert_eq!(stage.router().admission().queued, [0, 1, 0]);
    stage.now = stage.now.plus(Micros(1_000_000));
    stage.feed(Event::Tick);
    assert!(matches!(rejection(&stage, 1), Some(RejectReason::WouldMissTtft { .. })), "{:?}", result(&stage, 1));
    stage.give(LegId { request: RequestId(0), leg: 0 }, 2);
    stage.check_over();
}

/// Requests on their way: each is prefilled on A and decodes on B.
fn decoding(stage: &mut Stage, requests: std::ops::Range<u64>) {
    for request in requests {
        stage.arrive_with(request, 64, 130, PATIENT);
        stage.give(stage.leg_of(request), 1);
        let leg = stage.leg_of(request);
        stage.moved(leg, true);
        stage.give(leg, 1);
    }
}

const SMOOTH: Objectives = Objectives { itl_us_max: Micros(100_000), ..PATIENT };

#[test]
fn only_the_predictive_forecast_sees_what_is_on_its_way_to_the_decode_pool() {
    for (reject, admits) in [(EarlyRejection::Naive, true), (EarlyRejection::Predictive, false)] {
        let mut stage = Stage::with(2, &split(PolicyKind::FullDisaggregation, &[A], &[B]), &rejecting(reject));
        for request in 0..60 {
            stage.arrive_with(request, 64, 400, PATIENT);
        }
        assert_eq!(stage.router().demand(B).running, 0);
        stage.arrive_with(60, 64, 400, SMOOTH);
        assert_eq!(rejection(&stage, 60).is_none(), admits, "{reject:?}: {:?}", result(&stage, 60));
        stage.feed(Event::ShutDown);
    }
}

#[test]
fn only_the_predictive_forecast_sees_that_decodes_will_be_over() {
    for (reject, admits) in [(EarlyRejection::Naive, false), (EarlyRejection::Predictive, true)] {
        let mut stage = Stage::with(2, &split(PolicyKind::FullDisaggregation, &[A], &[B]), &rejecting(reject));
        // Decodes last for 2 s, which is what 130 tokens take.
        decoding(&mut stage, 0..1);
        stage.now = stage.now.plus(Micros(2_000_000));
        stage.give(stage.leg_of(0), 400);
        decoding(&mut stage, 1..61);
        stage.now = stage.now.plus(Micros(1_000_000));
        assert_eq!(stage.router().demand(B).running, 60);
        // Its prefill takes 2.1 s.
        stage.arrive_with(61, 3_000, 400, Objectives { itl_us_max: Micros(150_000), ..PATIENT });
        let reason = rejection(&stage, 61);
        assert_eq!(reason.is_none(), admits, "{reject:?}: {reason:?}");
        assert!(matches!(reason, None | Some(RejectReason::WouldMissItl { .. })), "{reason:?}");
        stage.feed(Event::ShutDown);
    }
}

/// Whether a request of this priority gets in, by the state that the seed makes.
fn gets_in(priority: Priority, reject: EarlyRejection, seed: u64) -> bool {
    let rng = &mut seeded(seed, "load");
    let admission = AdmissionSettings { reject, ..queue(50) };
    let settings = RouterSettings { max_in_flight: rng.random_range(5..60), admission, ..RouterSettings::default() };
    let mut stage = Stage::with(2, &split(PolicyKind::FullDisaggregation, &[A], &[B]), &settings);
    for request in 0..rng.random_range(0..60) {
        stage.arrive_as(Priority::ALL[rng.random_range(0..3)], request, rng.random_range(1..400), 100, PATIENT);
        if rng.random_bool(0.5)
            && let Some(&leg) = stage.live.keys().next()
        {
            stage.moved(leg, true);
            stage.give(leg, 1);
        }
    }
    let ttft_us_max = Micros(rng.random_range(100_000..6_000_000));
    let objectives = Objectives { ttft_us_max, itl_us_max: Micros(rng.random_range(20_000..200_000)) };
    stage.arrive_as(priority, 1_000, 100, 100, objectives);
    rejection(&stage, 1_000).is_none()
}

#[test]
fn a_lower_priority_is_rejected_first() {
    let (mut all, mut none, mut some) = (0, 0, 0);
    for seed in 0..400 {
        for reject in [EarlyRejection::Naive, EarlyRejection::Predictive] {
            let admitted = [3, 2, 1].map(|number| gets_in(Priority::ALL[number - 1], reject, seed));
            assert!(admitted.is_sorted(), "seed {seed}, {reject:?}: of priorities 3, 2, 1 admitted are {admitted:?}");
            match admitted {
                [true, ..] => all += 1,
                [.., false] => none += 1,
                _ => some += 1,
            }
        }
    }
    assert!(all > 20 && none > 20 && some > 5, "{all} states admit all, {none} none, {some} the higher ones: that shows nothing");
}

#[test]
fn the_window_is_asked_for_what_is_to_be_computed() {
    let admission = AdmissionSettings { window: WindowKind::Aimd, window_tokens_max: 1_000, ..queue(8) };
    let settings = RouterSettings { admission, ..RouterSettings::default() };
    let mut stage = Stage::with(1, &Arrangement::shared("warm", PolicyKind::CacheAware, 1, Tuning::default()), &settings);
    let said = prompt(7, 1_008);
    stage.arrive_saying(Priority::Normal, 0, said.clone(), 1, PATIENT);
    stage.give(stage.leg_of(0), 1);
    // All but the last block of their prompts is cached.
    let objectives = Objectives { ttft_us_max: Micros(500_000), ..PATIENT };
    (1..5).for_each(|request| drop(stage.arrive_saying(Priority::Normal, request, said.clone(), 1, objectives)));
    let state = stage.router().admission();
    assert_eq!((state.tokens_in_flight, state.queued), (4 * 16, [0; 3]));
    stage.arrive_with(5, 1_000, 1, PATIENT);
    assert_eq!(stage.router().admission().queued, [0, 1, 0], "nothing of this one is");
    stage.now = stage.now.plus(Micros(2_000_000));
    for request in 1..5 {
        stage.give(stage.leg_of(request), 1);
    }
    assert_eq!(stage.router().admission().window_tokens, Some(512), "what was under way when they were late is little");
    stage.give(stage.leg_of(5), 1);
    stage.check_over();
}

#[test]
fn the_queue_moves_with_those_who_become_too_late_in_it() {
    let mut stage = stage(1, AdmissionSettings { reject: EarlyRejection::Naive, ..queue(4) });
    stage.arrive_with(0, 64, 1, PATIENT);
    (1..4).for_each(|request| drop(stage.arrive_with(request, 100, 1, Objectives { ttft_us_max: Micros(5_000_000), ..PATIENT })));
    stage.arrive_with(4, 64, 1, PATIENT);
    stage.now = stage.now.plus(Micros(10_000_000));
    stage.feed(Event::Tick);
    assert!((1..4).all(|request| rejection(&stage, request).is_some()));
    stage.now = stage.now.plus(Micros(10_000_000));
    assert_eq!(submitted(&stage.give(LegId { request: RequestId(0), leg: 0 }, 1)), [4]);
    (5..10).for_each(|request| drop(stage.arrive_with(request, 64, 1, PATIENT)));
    // In 20 s it got shorter by 364 tokens and not by 64, so half of these 320 take less than 20 s.
    let retry_after_ms = rejection(&stage, 9).and_then(|reason| reason.retry_after_ms());
    assert!(retry_after_ms.is_some_and(|ms| ms < 20_000), "{retry_after_ms:?}");
    for request in 4..9 {
        stage.give(LegId { request: RequestId(request), leg: 0 }, 1);
    }
    stage.check_over();
}
