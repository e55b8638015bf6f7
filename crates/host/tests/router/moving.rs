//! Requests that move while they decode: because it pays, or because their engine is drained.

use dualpool_router::{Action, DrainError, EngineFacts, Event, MigrationSettings, RouterSettings, SignalSettings};
use dualpool_types::records::{MigrationReason, RouterNote};
use dualpool_types::{
    Arrangement, EngineId, FinishReason, LegId, Micros, Objectives, Phase, PolicyKind, RequestError, RequestId, Tuning,
};

use super::script::{A, B, FACTS, Stage};

const C: EngineId = EngineId(2);

/// A step of eight takes 21 ms by the router's model, one of four 17.6 ms.
const TIGHT: Objectives = Objectives { ttft_us_max: Micros(3_000_000), itl_us_max: Micros(22_000) };

fn settings(migration: MigrationSettings) -> RouterSettings {
    let signals = SignalSettings { warm_up_requests: 0, ..SignalSettings::default() };
    RouterSettings { migration, signals, ..RouterSettings::default() }
}

fn moving() -> MigrationSettings {
    MigrationSettings { enabled: true, ..MigrationSettings::default() }
}

fn least_load(engines: usize) -> Arrangement {
    Arrangement::shared("ll", PolicyKind::LeastLoad, engines, Tuning::default())
}

fn shared(engines: usize, migration: MigrationSettings) -> Stage {
    Stage::with(engines, &least_load(engines), &settings(migration))
}

/// Eight requests that decode on A, which is too slow for them, while the others are idle.
fn crowded(engines: usize, migration: MigrationSettings) -> Stage {
    crowded_by(8, engines, migration)
}

fn crowded_by(requests: u64, engines: usize, migration: MigrationSettings) -> Stage {
    let mut stage = shared(engines, migration);
    for engine in 1..engines {
        stage.feed(Event::Drain { engine: EngineId(engine as u16) });
    }
    for request in 0..requests {
        stage.arrive_with(request, 100 + request as usize, 200, TIGHT);
        stage.give(stage.leg_of(request), 1);
    }
    for engine in 1..engines {
        stage.feed(Event::Undrain { engine: EngineId(engine as u16) });
    }
    stage
}

fn parted(actions: &[Action]) -> Vec<LegId> {
    actions.iter().filter_map(|action| if let Action::Detach { leg, .. } = action { Some(*leg) } else { None }).collect()
}

fn notes(actions: &[Action]) -> Vec<RouterNote> {
    actions.iter().filter_map(|action| if let Action::Note(note) = action { Some((**note).clone()) } else { None }).collect()
}

/// Every leg gets a token, and every copy ends.
fn step(stage: &mut Stage) {
    for leg in stage.live.keys().copied().collect::<Vec<_>>() {
        if stage.live.get(&leg).is_some_and(|live| live.waits.is_some()) {
            stage.moved(leg, true);
        }
        stage.give(leg, 1);
    }
}

fn finish(stage: &mut Stage) {
    while !stage.live.is_empty() {
        step(stage);
    }
    stage.check_over();
}

/// One request of A is asked to leave it.
fn one_parting(engines: usize) -> (Stage, LegId) {
    let mut stage = crowded(engines, MigrationSettings { in_flight_max: 1, ..moving() });
    let parted = parted(&stage.wait(300));
    assert_eq!(parted.len(), 1);
    (stage, parted[0])
}

#[test]
fn requests_leave_a_slow_engine_until_it_is_fast_enough_and_none_comes_back() {
    let mut stage = crowded(2, moving());
    let mut moved = Vec::new();
    for _ in 0..30 {
        moved.extend(parted(&stage.wait(100)));
        step(&mut stage);
    }
    assert!(!moved.is_empty());
    assert_eq!(moved[0].request, RequestId(0), "the one with the least KV goes first");
    let mut requests: Vec<RequestId> = moved.iter().map(|leg| leg.request).collect();
    requests.dedup();
    assert_eq!(requests.len(), moved.len(), "each at most once: {moved:?}");
    let on = |engine| stage.live.values().filter(|live| live.engine == engine).count();
    assert!(on(A) < 8 && on(A) >= on(B), "A has {}, B {}: no more than the objective asks for", on(A), on(B));
    let all = notes(stage.actions());
    let migrated =
        all.iter().filter(|note| matches!(note, RouterNote::Migrated { from: A, to: B, why: MigrationReason::SavesTime, .. }));
    assert_eq!(migrated.count(), moved.len());
    finish(&mut stage);
}

#[test]
fn the_token_it_leaves_with_goes_out_at_once_and_the_rest_follows_from_there() {
    let (mut stage, leg) = one_parting(2);
    let request = leg.request.0;
    let actions = stage.give(leg, 5);
    assert!(matches!(&actions[0], Action::Emit { tokens, .. } if tokens.len() == 1), "{actions:?}");
    let next = &stage.live[&stage.leg_of(request)];
    let load = next.leg.kv_source.expect("its KV comes along");
    assert_eq!((next.engine, load.engine, load.leg, load.tokens), (B, A, leg, 101));
    assert_eq!((next.leg.prompt.len(), next.leg.max_tokens, next.leg.hold), (102, 198, false));
    finish(&mut stage);
}

#[test]
fn nothing_moves_unless_it_is_asked_for() {
    let mut stage = crowded(2, MigrationSettings::default());
    assert_eq!(parted(&stage.wait(2_000)), []);
    finish(&mut stage);
}

#[test]
fn a_slow_moment_moves_nothing() {
    let mut stage = crowded(2, moving());
    assert_eq!(parted(&stage.wait(150)), []);
    stage.give(stage.leg_of(0), 200);
    stage.give(stage.leg_of(1), 200);
    assert_eq!(parted(&stage.wait(500)), [], "it is fast enough by now");
    finish(&mut stage);
}

#[test]
fn a_slow_engine_is_left_and_gets_nobody_whatever_the_load_says() {
    let mut stage = crowded_by(4, 3, moving());
    assert_eq!(parted(&stage.wait(500)), [], "four are within the objective");
    for engine in [A, B] {
        stage.slowed(engine, 3.0);
    }
    let parted = parted(&stage.wait(500));
    assert!(!parted.is_empty());
    for leg in parted {
        stage.give(leg, 1);
        assert_eq!(stage.engine_of(leg.request.0), C);
    }
    finish(&mut stage);
}

#[test]
fn what_is_on_its_way_takes_its_place_in_memory_before_it_has_come() {
    // On C there is room for one request of about 300 tokens, and not for two.
    let facts = [FACTS, FACTS, EngineFacts { kv_tokens: 500, ..FACTS }];
    let migration = MigrationSettings { kv_share_max: 1.0, ..moving() };
    let mut stage = Stage::of(&facts, &least_load(3), &settings(migration));
    stage.feed(Event::Drain { engine: C });
    for request in 0..16 {
        stage.arrive_with(request, 100, 200, TIGHT);
        stage.give(stage.leg_of(request), 1);
    }
    stage.feed(Event::Undrain { engine: C });
    assert!([A, B].iter().all(|&engine| stage.router().demand(engine).running == 8));
    let leaving = parted(&stage.wait(500));
    assert_eq!(leaving.len(), 1, "{leaving:?}: both are too slow, and C is the best for either");
    finish(&mut stage);
}

#[test]
fn a_window_has_a_budget_of_requests_and_of_tokens() {
    for budget in [
        MigrationSettings { requests_max: 1, ..moving() },
        MigrationSettings { tokens_max: 150, ..moving() },
        // Of 32,768 tokens.
        MigrationSettings { kv_share_max: 0.005, ..moving() },
    ] {
        let window = Micros(budget.window_ms * 1_000);
        let mut stage = crowded_by(12, 2, budget);
        let mut moved = Vec::new();
        for _ in 0..100 {
            if !parted(&stage.wait(50)).is_empty() {
                moved.push(stage.now);
            }
            // Those that move get on.
            for leg in stage.live.keys().copied().collect::<Vec<_>>() {
                let live = &stage.live[&leg];
                let (holds, waits) = (live.leg.hold, live.waits.is_some());
                if waits {
                    stage.moved(leg, true);
                }
                if holds || waits {
                    stage.give(leg, 1);
                }
            }
        }
        assert!(moved.len() >= 3, "{moved:?}");
        // One in each window; two of neighbouring windows may be closer.
        assert!(moved.windows(3).all(|moves| moves[2].since(moves[0]) >= window), "{moved:?}");
        finish(&mut stage);
    }
}

#[test]
fn what_does_not_pay_stays() {
    // Two tokens are not worth a gap.
    let mut stage = crowded(2, moving());
    for request in 0..8 {
        stage.give(stage.leg_of(request), 196);
    }
    assert_eq!(parted(&stage.wait(1_000)), []);
    finish(&mut stage);
    // As full as the one it would leave.
    let mut stage = crowded(2, moving());
    stage.feed(Event::Drain { engine: A });
    for request in 8..16 {
        stage.arrive_with(request, 50, 200, TIGHT);
        stage.give(stage.leg_of(request), 1);
    }
    stage.feed(Event::Undrain { engine: A });
    stage.wait(0);
    assert_eq!(parted(&stage.wait(1_000)), []);
    finish(&mut stage);
}

#[test]
fn the_source_dies_before_the_request_has_left_it() {
    let (mut stage, leg) = one_parting(2);
    stage.die(A);
    assert_eq!(stage.engine_of(leg.request.0), B);
    finish(&mut stage);
}

#[test]
fn the_source_dies_during_the_copy() {
    let (mut stage, leg) = one_parting(2);
    stage.give(leg, 1);
    stage.die(A);
    stage.moved(stage.leg_of(leg.request.0), false);
    finish(&mut stage);
}

#[test]
fn the_target_dies_before_the_request_has_come_or_during_the_copy() {
    for during_copy in [false, true] {
        for engines in [2, 3] {
            let (mut stage, leg) = one_parting(engines);
            let request = leg.request.0;
            if during_copy {
                stage.give(leg, 1);
                assert_eq!(stage.engine_of(request), B);
            }
            stage.die(B);
            if !during_copy {
                stage.give(leg, 1);
            }
            assert!([A, C].contains(&stage.engine_of(request)));
            finish(&mut stage);
        }
    }
}

#[test]
fn a_client_goes_away_while_its_request_moves() {
    for copying in [false, true] {
        let (mut stage, leg) = one_parting(2);
        let request = leg.request.0;
        if copying {
            stage.give(leg, 1);
        }
        let aborted = stage.leg_of(request);
        let actions = stage.cancel(request);
        assert!(actions.contains(&Action::Release { engine: A, leg }), "{actions:?}");
        let phase = if copying { Phase::Handoff } else { Phase::Decode };
        assert_eq!(stage.result(leg.request), Some(Err(RequestError::Cancelled { phase })));
        // The engine was faster: the leg is over, and held.
        stage.end(aborted, &[], if copying { &FinishReason::Aborted } else { &FinishReason::Length });
        finish(&mut stage);
    }
}

#[test]
fn a_copy_that_fails_is_computed_again() {
    let (mut stage, leg) = one_parting(2);
    stage.give(leg, 1);
    stage.moved(stage.leg_of(leg.request.0), false);
    assert!(stage.held.is_empty());
    assert_eq!(stage.router().demand(B).prompt_tokens, 102);
    finish(&mut stage);
}

#[test]
fn an_engine_that_holds_nothing_has_the_request_computed_again() {
    let (mut stage, leg) = one_parting(2);
    stage.live.get_mut(&leg).unwrap().leg.hold = false;
    stage.give(leg, 1);
    let next = &stage.live[&stage.leg_of(leg.request.0)];
    assert_eq!((next.engine, next.leg.kv_source), (B, None));
    let note = RouterNote::Migrated { request: leg.request, from: A, to: B, tokens: 0, why: MigrationReason::SavesTime };
    assert!(notes(stage.actions()).contains(&note));
    finish(&mut stage);
}

#[test]
fn a_leg_that_ends_by_itself_meanwhile_just_ends() {
    for reason in [FinishReason::Stop, FinishReason::Error("out of memory".to_owned())] {
        let (mut stage, leg) = one_parting(2);
        stage.end(leg, &[], &reason);
        assert!(stage.held.is_empty(), "{reason:?}");
        assert_eq!(stage.result(leg.request).as_ref().unwrap().is_ok(), reason == FinishReason::Stop);
        stage.forget(leg.request);
        finish(&mut stage);
    }
    // All its tokens were under way when it was asked to leave.
    let (mut stage, leg) = one_parting(2);
    stage.live.get_mut(&leg).unwrap().leg.max_tokens = 200;
    stage.give(leg, 200);
    assert_eq!(stage.result(leg.request), Some(Ok(())));
    assert!(stage.held.is_empty());
    finish(&mut stage);
}

#[test]
fn a_link_that_breaks_meanwhile_leaves_the_request_where_it_is() {
    let (mut stage, leg) = one_parting(2);
    stage.cut(A);
    stage.give(leg, 1);
    assert_eq!(stage.engine_of(leg.request.0), A);
    finish(&mut stage);
}

#[test]
fn a_request_moves_only_so_often_and_rests_between() {
    let mut stage = crowded(2, MigrationSettings { per_request_max: 1, cool_down_ms: 0, requests_max: 100, ..moving() });
    let mut moved = Vec::new();
    for _ in 0..40 {
        moved.extend(parted(&stage.wait(100)));
        step(&mut stage);
    }
    // Now B is the slow one, and those that came are not sent back.
    stage.feed(Event::Drain { engine: A });
    for request in 20..28 {
        stage.arrive_with(request, 500, 200, TIGHT);
        stage.give(stage.leg_of(request), 1);
    }
    stage.feed(Event::Undrain { engine: A });
    for request in 0..8 {
        if stage.engine_of(request) == A {
            stage.give(stage.leg_of(request), 200);
        }
    }
    let again = parted(&stage.wait(500));
    assert!(!again.is_empty() && again.iter().all(|leg| leg.request.0 >= 20), "{again:?}");
    finish(&mut stage);
}

#[test]
fn a_drained_engine_loses_what_it_has_and_gets_nothing_new() {
    let mut stage = crowded(2, MigrationSettings::default());
    stage.arrive_with(8, 700, 5, TIGHT);
    stage.arrive_with(9, 700, 1, TIGHT);
    let slow: Vec<u64> = [8, 9].into_iter().filter(|&request| stage.engine_of(request) == A).collect();
    stage.drain(A);
    stage.arrive_with(10, 100, 5, TIGHT);
    assert_eq!(stage.engine_of(10), B);
    let mut rounds = 0;
    while stage.live.values().any(|live| live.engine == A) {
        let actions = stage.wait(50);
        assert!(!notes(&actions).iter().any(|note| matches!(note, RouterNote::Drained { .. })));
        assert!(parted(&actions).len() <= 2, "{actions:?}");
        let on_a: Vec<LegId> = stage.live.values().filter(|live| live.engine == A).map(|live| live.leg.id).collect();
        let coming: Vec<LegId> = stage.live.values().filter(|live| live.waits.is_some()).map(|live| live.leg.id).collect();
        on_a.into_iter().for_each(|leg| drop(stage.give(leg, 1)));
        for leg in coming {
            stage.moved(leg, true);
            stage.give(leg, 1);
        }
        rounds += 1;
        assert!(rounds < 100, "{slow:?} are still there");
    }
    step(&mut stage);
    step(&mut stage);
    assert_eq!(notes(&stage.wait(50)), [RouterNote::Drained { engine: A }]);
    assert_eq!(notes(&stage.wait(500)), [], "told once");
    stage.feed(Event::Undrain { engine: A });
    stage.arrive_with(11, 100, 5, TIGHT);
    assert_eq!(stage.engine_of(11), A);
    finish(&mut stage);
}

#[test]
fn somebody_always_takes_requests() {
    let mut stage = shared(2, MigrationSettings::default());
    assert_eq!(stage.router().can_drain(EngineId(7)), Err(DrainError::Unknown { engine: EngineId(7), engines: 2 }));
    stage.drain(A);
    assert_eq!(stage.router().can_drain(A), Ok(()), "again");
    assert_eq!(stage.router().can_drain(B), Err(DrainError::Last { engine: B }));
    stage.feed(Event::Drain { engine: B });
    stage.arrive_with(0, 100, 5, TIGHT);
    assert_eq!(stage.engine_of(0), B);
    stage.die(B);
    assert_eq!(stage.engine_of(0), A, "drained or not");
    assert!(matches!(notes(stage.actions())[..], [RouterNote::DrainEnded { engine: A, .. }]));
    assert_eq!(stage.router().can_drain(B), Err(DrainError::Dead { engine: B }));
    finish(&mut stage);
}
