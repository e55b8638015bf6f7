//! Where the policies send requests.

use dualpool_router::{CostModel, EngineFacts, RouterSettings};
use dualpool_types::{Arrangement, EngineId, EngineStats, Micros, Objectives, PolicyKind, Tuning};

use super::script::{A, B, Stage, split};

fn shared(policy: PolicyKind, engines: usize) -> Stage {
    Stage::new(engines, &Arrangement::shared("test", policy, engines, Tuning::default()))
}

fn objectives(ttft_ms: f64, itl_ms: f64) -> Objectives {
    Objectives { ttft_us_max: Micros::from_ms(ttft_ms), itl_us_max: Micros::from_ms(itl_ms) }
}

#[test]
fn round_robin_takes_turns() {
    let mut stage = shared(PolicyKind::RoundRobin, 3);
    let engines: Vec<u16> = (0..6)
        .map(|request| {
            stage.arrive(request, 100, 4);
            stage.engine_of(request).0
        })
        .collect();
    assert_eq!(engines, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_herd_between_two_reports_spreads() {
    let mut stage = shared(PolicyKind::LeastLoad, 4);
    for request in 0..40 {
        stage.arrive(request, 100, 16);
    }
    assert!((0..4).all(|engine| stage.router().demand(EngineId(engine)).depth() == 10));
    // One long prompt weighs as much as many short ones.
    stage.arrive(40, 4000, 16);
    let busy = stage.engine_of(40);
    for request in 41..50 {
        stage.arrive(request, 100, 16);
        assert_ne!(stage.engine_of(request), busy);
    }
}

#[test]
fn least_load_sees_progress_and_a_full_cache() {
    let mut stage = shared(PolicyKind::LeastLoad, 2);
    stage.arrive(0, 3000, 8);
    let (busy, other) = (stage.engine_of(0), EngineId(1 - stage.engine_of(0).0));
    stage.arrive(1, 1500, 8);
    assert_eq!(stage.engine_of(1), other);
    let stats = |computed| EngineStats { running: 1, steps: computed, prompt_tokens_computed: computed, ..EngineStats::default() };
    stage.stats(busy, stats(0));
    stage.stats(busy, stats(2900));
    stage.arrive(2, 64, 8);
    assert_eq!(stage.engine_of(2), busy, "100 tokens are left there, 1500 here");
    stage.stats(busy, EngineStats { kv_usage: 0.97, ..stats(2900) });
    stage.arrive(3, 64, 8);
    assert_eq!(stage.engine_of(3), other, "its cache is full");
    // Nonsense from an engine is not believed, and does not spoil a score.
    stage.stats(busy, EngineStats { kv_usage: f32::NAN, ..stats(2900) });
    stage.arrive(4, 64, 8);
    assert_eq!(stage.engine_of(4), busy);
}

#[test]
fn the_last_chunk_of_one_prompt_is_no_progress_of_the_next() {
    let mut stage = shared(PolicyKind::LeastLoad, 1);
    let report = |steps, computed| EngineStats { running: 1, steps, prompt_tokens_computed: computed, ..EngineStats::default() };
    stage.arrive(0, 1000, 8);
    stage.arrive(1, 1000, 8);
    stage.stats(EngineId(0), report(0, 0));
    stage.stats(EngineId(0), report(1, 750));
    assert_eq!(stage.router().engines()[0].backlog(), 1250.0);
    // A step's outputs come before its report.
    stage.give(stage.leg_of(0), 1);
    stage.stats(EngineId(0), report(2, 1000));
    assert_eq!(stage.router().engines()[0].backlog(), 1000.0);
}

#[test]
fn balanced_keeps_long_prompts_apart_and_shorts_off_them() {
    let mut stage = shared(PolicyKind::Balanced, 2);
    stage.arrive(0, 1000, 8);
    stage.arrive(1, 1000, 8);
    assert_ne!(stage.engine_of(0), stage.engine_of(1));
    stage.give(stage.leg_of(1), 1);
    stage.arrive(2, 64, 8);
    assert_eq!(stage.engine_of(2), stage.engine_of(1), "no long prompt is in prefill there");
}

#[test]
fn dedicated_keeps_each_kind_to_its_pool() {
    let mut stage = Stage::new(4, &split(PolicyKind::Dedicated, &[A, B], &[EngineId(2), EngineId(3)]));
    for (request, prompt_tokens) in [(0, 1000), (1, 1000), (2, 64), (3, 64)] {
        stage.arrive(request, prompt_tokens, 8);
        assert!(!stage.live[&stage.leg_of(request)].leg.hold);
    }
    let engines: Vec<u16> = (0..4).map(|request| stage.engine_of(request).0).collect();
    assert_eq!((engines[0] + engines[1], engines[2] + engines[3]), (1, 5), "{engines:?}");
}

#[test]
fn dual_pool_in_doubt_is_the_plain_rule() {
    let mut stage = Stage::pair(PolicyKind::DualPool);
    for request in 0..12 {
        let long = request % 4 == 0;
        stage.arrive(request, if long { 1000 } else { 64 }, 8);
        assert_eq!(stage.engine_of(request), if long { A } else { B });
    }
}

#[test]
fn dual_pool_moves_a_short_prefill_off_an_engine_it_would_jolt() {
    let mut stage = Stage::pair(PolicyKind::DualPool);
    let tight = objectives(500.0, 50.0);
    for request in 0..4 {
        stage.arrive_with(request, 64, 32, tight);
        stage.give(stage.leg_of(request), 1);
    }
    // 64 prompt tokens beside four decodes take 62 ms on B; on A they delay no request.
    stage.arrive_with(4, 64, 32, tight);
    assert_eq!(stage.engine_of(4), A);
    assert!(stage.live[&stage.leg_of(4)].leg.hold);
    // Behind a long prompt it would be late there.
    stage.arrive_with(5, 1000, 32, objectives(3000.0, 50.0));
    stage.arrive_with(6, 64, 32, tight);
    assert_eq!(stage.engine_of(6), B);
}

#[test]
fn dual_pool_starts_a_long_prompt_on_the_decode_engine_only_if_all_objectives_gain() {
    let decode = Tuning { max_num_batched_tokens: Some(144), long_prefill_token_threshold: Some(64) };
    let arrangement = Arrangement::pools("test", PolicyKind::DualPool, &[A], &[B], 2, Tuning::default(), decode, 256).unwrap();
    let queue = |itl_ms: f64| {
        let mut stage = Stage::new(2, &arrangement);
        for request in 0..6 {
            stage.arrive_with(request, 1000, 8, objectives(3000.0, itl_ms));
        }
        (0..6).map(|request| stage.engine_of(request)).collect::<Vec<_>>()
    };
    // Each takes 0.7 s: the fifth would be late on A, and B takes one of them.
    assert_eq!(queue(200.0), [A, A, A, A, B, A]);
    assert_eq!(queue(50.0), [A; 6]);
}

#[test]
fn dual_pool_lets_a_long_prompt_stay_where_no_step_can_hurt_it() {
    let prefill = Tuning { max_num_batched_tokens: Some(128), ..Tuning::default() };
    let arrangement = Arrangement::pools("test", PolicyKind::DualPool, &[A], &[B], 2, prefill, Tuning::default(), 256).unwrap();
    let placed = |itl_ms: f64, busy: bool| {
        let mut stage = Stage::new(2, &arrangement);
        if busy {
            stage.arrive(0, 1000, 8);
        }
        stage.arrive_with(1, 1000, 8, objectives(3000.0, itl_ms));
        assert_eq!(stage.engine_of(1), A);
        !stage.live[&stage.leg_of(1)].leg.hold
    };
    assert!(placed(200.0, false), "a step of 128 tokens takes 103 ms");
    assert!(!placed(100.0, false));
    assert!(!placed(200.0, true), "another one is there");
}

#[test]
fn decode_engines_are_chosen_when_the_prefill_is_done() {
    let mut stage = Stage::new(3, &split(PolicyKind::FullDisaggregation, &[A], &[B, EngineId(2)]));
    stage.arrive(0, 500, 8);
    stage.arrive(1, 500, 8);
    stage.give(stage.leg_of(0), 1);
    let first = stage.engine_of(0);
    stage.give(stage.leg_of(1), 1);
    assert_ne!(stage.engine_of(1), first);
    assert!(stage.engine_of(1) != A && first != A);
}

#[test]
fn an_engine_with_all_seats_taken_has_no_room() {
    let c = EngineId(2);
    let facts = EngineFacts { max_num_seqs: 2, ..super::script::FACTS };
    let pools = split(PolicyKind::FullDisaggregation, &[A], &[B, c]);
    let mut stage = Stage::of(&[facts, facts, super::script::FACTS], &pools, &RouterSettings::default());
    let engines: Vec<EngineId> = (0..6)
        .map(|request| {
            stage.arrive(request, 300, 32);
            stage.give(stage.leg_of(request), 1);
            stage.engine_of(request)
        })
        .collect();
    assert_eq!(engines, [B, c, B, c, c, c], "engine-1 has two seats");
}

#[test]
fn no_itl_objective_is_too_loose() {
    let mut stage = shared(PolicyKind::LeastLoad, 1);
    for request in 0..3 {
        stage.arrive_with(request, 100, 1, Objectives { itl_us_max: Micros(u64::MAX), ..objectives(500.0, 0.0) });
    }
    assert!(stage.router().engines()[0].itl_objective() >= 3.6e9);
    (0..3).for_each(|request| drop(stage.give(stage.leg_of(request), 1)));
    stage.check_over();
}

#[test]
fn what_an_engine_said_of_its_cache_before_it_fell_idle_does_not_count() {
    let mut stage = shared(PolicyKind::LeastLoad, 1);
    let full = EngineStats { kv_usage: 0.9, ..EngineStats::default() };
    stage.arrive(0, 100, 1);
    stage.stats(A, full);
    let usage = |stage: &Stage| stage.router().engines()[0].kv_usage();
    assert!(usage(&stage) > 0.8);
    stage.give(stage.leg_of(0), 1);
    stage.stats(A, full); // The step that ended the leg.
    stage.arrive(1, 100, 1);
    assert!(usage(&stage) < 0.1);
    stage.stats(A, full);
    assert!(usage(&stage) > 0.8);
}

#[test]
fn a_spoiled_calibration_does_not_reach_a_score() {
    let mut stage = shared(PolicyKind::LeastLoad, 2);
    stage.host.set_costs(CostModel { prefill_us: f64::NAN, decode_us: f64::NEG_INFINITY, ..CostModel::default() });
    for request in 0..8 {
        stage.arrive(request, 100, 8);
    }
    assert_eq!((stage.router().demand(A).depth(), stage.router().demand(B).depth()), (4, 4));
}

#[test]
fn costs_are_learnt_from_whole_steps_only() {
    let mut stage = shared(PolicyKind::RoundRobin, 1);
    let before = *stage.router().costs();
    let report =
        |steps: u64, outputs: u64, running| EngineStats { steps, output_tokens: outputs, running, ..EngineStats::default() };
    stage.stats(A, report(10, 100, 0));
    stage.stats(A, report(11, 108, 8)); // The engine was idle before this step: its length is unknown.
    stage.stats(A, report(14, 132, 8)); // Three steps in one report.
    assert_eq!(*stage.router().costs(), before);
    stage.stats(A, report(15, 140, 8)); // 1 ms for 8 decodes.
    assert!(stage.router().costs().step(0.0, 8.0) < before.step(0.0, 8.0));
}
