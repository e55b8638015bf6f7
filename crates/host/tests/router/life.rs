//! The life of single requests, step by step.

use dualpool_router::{Action, RouterSettings};
use dualpool_types::{
    Arrangement, ArrangementError, EngineId, FinishReason, Phase, PolicyKind, RejectReason, RequestError, RequestId, Tuning,
};

use super::script::{A, B, Stage, split};

fn result(stage: &Stage, request: u64) -> Result<(), RequestError> {
    stage.result(RequestId(request)).clone().unwrap_or_else(|| panic!("request-{request} is not over"))
}

#[test]
fn a_long_prompt_prefills_on_a_and_decodes_on_b() {
    let mut stage = Stage::pair(PolicyKind::DualPool);
    stage.arrive(0, 1000, 4);
    let first = stage.leg_of(0);
    assert_eq!(stage.engine_of(0), A);
    assert!(stage.live[&first].leg.hold && stage.live[&first].leg.max_tokens == 1);
    let actions = stage.give(first, 1);
    assert!(matches!(&actions[0], Action::Emit { tokens, .. } if tokens.len() == 1), "the first token goes out at once");
    let second = stage.leg_of(0);
    let leg = &stage.live[&second].leg;
    assert_eq!((stage.engine_of(0), leg.prompt.len(), leg.max_tokens, leg.hold), (B, 1001, 3, false));
    assert_eq!(leg.kv_source.map(|load| (load.engine, load.leg, load.tokens)), Some((A, first, 1000)));
    assert_eq!(stage.router().demand(B).prompt_tokens, 1, "loaded tokens are no prefill work");
    stage.moved(second, true);
    stage.give(second, 3);
    assert_eq!(result(&stage, 0), Ok(()));
    stage.check_over();
}

#[test]
fn a_request_that_ends_with_its_first_token_does_not_move() {
    let mut stage = Stage::pair(PolicyKind::FullDisaggregation);
    stage.arrive(0, 1000, 1);
    assert!(!stage.live[&stage.leg_of(0)].leg.hold, "nothing to hold it for");
    stage.give(stage.leg_of(0), 1);
    stage.arrive(1, 1000, 8);
    stage.end(stage.leg_of(1), &[], &FinishReason::Stop);
    assert_eq!((result(&stage, 0), result(&stage, 1)), (Ok(()), Ok(())));
    assert!(stage.held.is_empty(), "released, for no engine will fetch it");
    assert_eq!(stage.sent.len(), 2);
}

#[test]
fn cancelling_releases_in_every_phase() {
    for phase in [Phase::Prefill, Phase::Handoff, Phase::Decode] {
        let mut stage = Stage::pair(PolicyKind::DualPool);
        stage.arrive(0, 1000, 8);
        if phase != Phase::Prefill {
            stage.give(stage.leg_of(0), 1);
        }
        if phase == Phase::Decode {
            stage.moved(stage.leg_of(0), true);
            stage.give(stage.leg_of(0), 1);
        }
        let leg = stage.leg_of(0);
        let actions = stage.cancel(0);
        assert!(matches!(actions[0], Action::Abort { leg: aborted, .. } if aborted == leg));
        assert_eq!(result(&stage, 0), Err(RequestError::Cancelled { phase }));
        assert_eq!(stage.router().in_flight(), 1, "until the engine says that the leg is over");
        stage.end(leg, &[], &FinishReason::Aborted);
        stage.forget_requests(); // Its tokens are cut off by the cancellation.
        stage.check_over();
    }
}

#[test]
fn a_leg_whose_end_crosses_the_abort_leaves_nothing_held() {
    // The engine's answer is that of the end or that of the abort, which does not say that blocks are held.
    for answer in [FinishReason::Length, FinishReason::Aborted] {
        let mut stage = Stage::pair(PolicyKind::DualPool);
        stage.arrive(0, 1000, 8);
        let leg = stage.leg_of(0);
        let actions = stage.cancel(0);
        assert!(actions.contains(&Action::Release { engine: A, leg }), "{actions:?}");
        stage.end(leg, &[], &answer);
        stage.check_over();
    }
}

#[test]
fn a_split_leg_that_its_engine_gives_up_leaves_nothing_held() {
    for reason in [FinishReason::Aborted, FinishReason::Error("scripted".to_owned())] {
        let mut stage = Stage::pair(PolicyKind::DualPool);
        stage.arrive(0, 1000, 8);
        stage.end(stage.leg_of(0), &[], &reason);
        assert!(matches!(result(&stage, 0), Err(RequestError::Engine { engine: A, phase: Phase::Prefill, .. })));
        stage.check_over();
    }
}

#[test]
fn a_failed_copy_is_computed_and_its_source_released() {
    let mut stage = Stage::pair(PolicyKind::DualPool);
    stage.arrive(0, 1000, 4);
    stage.give(stage.leg_of(0), 1);
    stage.moved(stage.leg_of(0), false);
    assert!(stage.held.is_empty());
    assert_eq!((stage.router().demand(B).prompt_tokens, stage.router().demand(B).long_prefills), (1001, 1));
    stage.give(stage.leg_of(0), 3);
    stage.check_over();
}

#[test]
fn an_engine_that_fails_a_leg_ends_the_request_with_its_words() {
    let mut stage = Stage::pair(PolicyKind::DualPool);
    stage.arrive(0, 1000, 4);
    stage.give(stage.leg_of(0), 1);
    stage.end(stage.leg_of(0), &[], &FinishReason::Error("out of blocks".to_owned()));
    let text = result(&stage, 0).unwrap_err().to_string();
    assert_eq!(text, "engine-1 failed the request during hand-off: out of blocks");
    stage.check_over();
}

#[test]
fn death_in_any_phase_resumes_the_request_elsewhere() {
    for (phase, dies) in [(Phase::Prefill, A), (Phase::Handoff, A), (Phase::Handoff, B), (Phase::Decode, A), (Phase::Decode, B)] {
        let mut stage = Stage::pair(PolicyKind::DualPool);
        stage.arrive(0, 1000, 6);
        if phase != Phase::Prefill {
            stage.give(stage.leg_of(0), 1);
        }
        if phase == Phase::Decode {
            stage.moved(stage.leg_of(0), true);
            stage.give(stage.leg_of(0), 2);
        }
        stage.die(dies);
        let leg = stage.leg_of(0);
        assert_ne!(stage.live[&leg].engine, dies, "{phase}, {dies}");
        if stage.live[&leg].waits.is_some() {
            stage.moved(leg, false); // The mover cannot read a dead engine.
        }
        stage.give(leg, 6);
        assert_eq!(result(&stage, 0), Ok(()), "{phase}, {dies}");
        stage.check_over();
    }
}

#[test]
fn an_engine_without_a_link_prefills_no_request_for_others_and_takes_none_over() {
    let c = EngineId(2);
    let mut stage = Stage::new(3, &split(PolicyKind::FullDisaggregation, &[A], &[B, c]));
    stage.arrive(0, 500, 4);
    stage.cut(B);
    stage.give(stage.leg_of(0), 1);
    assert_eq!(stage.engine_of(0), c, "the only one left to take it over");
    stage.moved(stage.leg_of(0), true);
    stage.arrive(1, 500, 4);
    stage.cut(A);
    stage.give(stage.leg_of(1), 1);
    assert_eq!(stage.engine_of(1), A, "no engine can take its KV, so the request stays with it");
    stage.arrive(2, 500, 4);
    assert!(stage.engine_of(2) == A && !stage.live[&stage.leg_of(2)].leg.hold);
    for request in 0..3 {
        stage.give(stage.leg_of(request), 4);
    }
    // Of an engine that is not ours, as a stranger on the socket may name it.
    stage.feed(dualpool_router::Event::KvLost { engine: EngineId(40) });
    stage.check_over();
}

#[test]
fn shutdown_ends_every_request_and_says_so() {
    let mut stage = Stage::pair(PolicyKind::DualPool);
    stage.arrive(0, 1000, 4);
    stage.arrive(1, 64, 4);
    stage.give(stage.leg_of(1), 1);
    stage.feed(dualpool_router::Event::ShutDown);
    assert_eq!(result(&stage, 0), Err(RequestError::ShutDown { phase: Phase::Prefill }));
    assert_eq!(result(&stage, 1), Err(RequestError::ShutDown { phase: Phase::Decode }));
    for leg in stage.sent.clone() {
        stage.end(leg, &[], &FinishReason::Aborted);
    }
    stage.forget_requests(); // Their tokens are cut off.
    stage.check_over();
}

#[test]
fn a_request_is_resumed_only_so_often() {
    let settings = RouterSettings { resumes_max: 1, ..RouterSettings::default() };
    let shared = Arrangement::shared("rr", PolicyKind::RoundRobin, 3, Tuning::default());
    let mut stage = Stage::with(3, &shared, &settings);
    stage.arrive(0, 100, 6);
    stage.give(stage.leg_of(0), 2);
    stage.die(stage.engine_of(0));
    let second = stage.engine_of(0);
    stage.die(second);
    let died = RequestError::EngineDied { engine: second, phase: Phase::Prefill, why: "killed".to_owned() };
    assert_eq!(result(&stage, 0), Err(died));
    stage.check_over();
}

#[test]
fn the_last_engine_takes_its_requests_along_and_later_ones_are_rejected() {
    let mut stage = Stage::pair(PolicyKind::DualPool);
    stage.arrive(0, 100, 6);
    stage.die(A);
    stage.die(B);
    assert!(matches!(result(&stage, 0), Err(RequestError::EngineDied { engine: B, .. })));
    stage.arrive(1, 100, 6);
    assert_eq!(result(&stage, 1), Err(RequestError::Rejected { reason: RejectReason::NoEngine }));
    stage.check_over();
}

#[test]
fn a_pool_without_engines_is_served_by_the_other_one() {
    for policy in [PolicyKind::Dedicated, PolicyKind::DualPool, PolicyKind::FullDisaggregation] {
        for (dies, left) in [(A, B), (B, A)] {
            let mut stage = Stage::pair(policy);
            stage.die(dies);
            for (request, prompt_tokens) in [(0, 64), (1, 1000)] {
                stage.arrive(request, prompt_tokens, 4);
                assert_eq!(stage.engine_of(request), left);
                assert!(!stage.live[&stage.leg_of(request)].leg.hold, "there is no engine to hand over to");
                stage.give(stage.leg_of(request), 4);
            }
            stage.check_over();
        }
    }
}

#[test]
fn what_cannot_be_served_is_rejected_at_once() {
    let settings = RouterSettings { max_in_flight: 1, ..RouterSettings::default() };
    let mut stage = Stage::with(2, &split(PolicyKind::DualPool, &[A], &[B]), &settings);
    stage.arrive(0, 0, 4);
    stage.arrive(1, 10, 0);
    stage.arrive(2, 4090, 7);
    stage.arrive(3, 4090, 6);
    stage.arrive(4, 10, 4);
    let rejected = |reason| Err(RequestError::Rejected { reason });
    assert_eq!(result(&stage, 0), rejected(RejectReason::EmptyPrompt));
    assert_eq!(result(&stage, 1), rejected(RejectReason::NoOutput));
    assert_eq!(result(&stage, 2), rejected(RejectReason::TooLong { prompt_tokens: 4090, max_tokens: 7, max_model_len: 4096 }));
    assert_eq!(result(&stage, 4), rejected(RejectReason::TooManyInFlight { in_flight: 1 }));
    assert_eq!(stage.sent.len(), 1);
}

#[test]
fn an_arrangement_is_refused_while_busy_or_when_it_does_not_fit() {
    let mut stage = Stage::pair(PolicyKind::DualPool);
    stage.arrive(0, 100, 4);
    let shared = Arrangement::shared("ll", PolicyKind::LeastLoad, 2, Tuning::default());
    assert_eq!(stage.host.arrange(&shared), Err(ArrangementError::Busy { in_flight: 1 }));
    stage.give(stage.leg_of(0), 4);
    stage.host.arrange(&shared).unwrap();
    let too_large = Tuning { max_num_batched_tokens: Some(4096), ..Tuning::default() };
    let error = stage.host.arrange(&Arrangement::shared("big", PolicyKind::LeastLoad, 2, too_large)).unwrap_err();
    assert!(error.to_string().contains("engine-0 to 4096; allowed are 1 to 2048"), "{error}");

    let cannot_move = super::script::FACTS;
    let facts = [cannot_move, dualpool_router::EngineFacts { kv_transfer: false, ..cannot_move }];
    let mut router = dualpool_router::Router::new(&facts, &RouterSettings::default());
    let error = router.arrange(&split(PolicyKind::DualPool, &[A], &[B])).unwrap_err();
    assert!(error.to_string().contains("engine-1 cannot"), "{error}");
    router.arrange(&split(PolicyKind::Dedicated, &[A], &[B])).unwrap();
}

#[test]
fn words_of_unknown_legs_change_nothing() {
    let mut stage = Stage::pair(PolicyKind::RoundRobin);
    stage.arrive(0, 100, 2);
    let leg = stage.leg_of(0);
    stage.give(leg, 2);
    for late in [leg, dualpool_types::LegId { request: RequestId(77), leg: 0 }] {
        let event = dualpool_router::Event::Output {
            leg: late,
            tokens: &[1],
            cached_tokens: None,
            finish: Some((&FinishReason::Length, None)),
        };
        assert_eq!(stage.feed(event), []);
    }
    assert_eq!(stage.cancel(0), []);
    assert_eq!(stage.moved(leg, true), []);
    stage.check_over();
}
