//! What the cost of a link between two engines changes.

use dualpool_router::Event;
use dualpool_types::{CopyLine, EngineId, Micros, Objectives, PolicyKind};

use super::script::{A, B, Stage, split};

const C: EngineId = EngineId(2);

fn link(stage: &mut Stage, from: EngineId, to: EngineId, us_per_token: f64) {
    stage.feed(Event::CopyCost { from, to, lines: &[CopyLine { fixed_us: 100.0, us_per_token }] });
}

#[test]
fn a_short_prompt_prefills_elsewhere_only_over_a_link_that_leaves_it_sooner() {
    let placed = |us_per_token: Option<f64>| {
        let mut stage = Stage::pair(PolicyKind::DualPool);
        if let Some(us_per_token) = us_per_token {
            link(&mut stage, A, B, us_per_token);
            // The way back has a cost of its own, which must not matter here.
            link(&mut stage, B, A, 0.0);
        }
        let loose = Objectives { ttft_us_max: Micros(3_000_000), itl_us_max: Micros(400_000) };
        stage.arrive_with(0, 64, 8, loose);
        stage.arrive_with(1, 64, 8, loose);
        (stage.engine_of(0), stage.engine_of(1))
    };
    // 64 tokens take 44 ms, and the second one would wait as long on B.
    assert_eq!(placed(None), (B, A), "4 us a token by default");
    assert_eq!(placed(Some(1.0)), (B, A));
    assert_eq!(placed(Some(900.0)), (B, B), "the copy takes 58 ms");
}

#[test]
fn a_request_decodes_where_its_kv_gets_soonest() {
    let decoder = |to_b: f64, to_c: f64| {
        let mut stage = Stage::new(3, &split(PolicyKind::FullDisaggregation, &[A], &[B, C]));
        link(&mut stage, A, B, to_b);
        link(&mut stage, A, C, to_c);
        stage.arrive(0, 500, 8);
        stage.give(stage.leg_of(0), 1);
        stage.engine_of(0)
    };
    assert_eq!((decoder(1.0, 50.0), decoder(50.0, 1.0)), (B, C));
}

#[test]
fn a_nearer_engine_is_left_once_it_is_too_busy() {
    let mut stage = Stage::new(3, &split(PolicyKind::FullDisaggregation, &[A], &[B, C]));
    link(&mut stage, A, B, 1.0);
    link(&mut stage, A, C, 35.0);
    let mut decoders = Vec::new();
    for request in 0..12 {
        stage.arrive(request, 500, 32);
        stage.give(stage.leg_of(request), 1);
        stage.moved(stage.leg_of(request), true);
        stage.give(stage.leg_of(request), 1);
        decoders.push(stage.engine_of(request));
    }
    // 500 tokens arrive 17 ms later on C: as long as B's step takes with a few decodes in it.
    assert_eq!(decoders[..2], [B, B], "{decoders:?}");
    assert!(decoders.contains(&C), "{decoders:?}");
}

#[test]
fn copies_that_take_longer_than_calibrated_correct_their_link_until_costs_are_put_back() {
    let mut stage = Stage::pair(PolicyKind::FullDisaggregation);
    link(&mut stage, A, B, 1.0);
    let predicted = |stage: &Stage| stage.router().copies().copy(A, B, 500.0).unwrap();
    assert_eq!(predicted(&stage), 600.0);
    for request in 0..200 {
        stage.arrive(request, 500, 2);
        stage.give(stage.leg_of(request), 1);
        stage.moved(stage.leg_of(request), true);
        stage.give(stage.leg_of(request), 1);
    }
    // The stage's mover says 2 ms each time.
    assert!((predicted(&stage) - 2_000.0).abs() < 50.0, "{}", predicted(&stage));
    let costs = *stage.router().costs();
    stage.host.set_costs(costs);
    assert_eq!(predicted(&stage), 600.0);
}

#[test]
fn a_wait_for_room_is_not_learnt_as_what_a_hand_off_costs() {
    let learnt = |before: u64| {
        let mut stage = Stage::pair(PolicyKind::FullDisaggregation);
        for request in 0..before {
            stage.arrive(request, 3_000, 1_000);
            stage.give(stage.leg_of(request), 1);
        }
        stage.arrive(before, 3_000, 1_000);
        stage.give(stage.leg_of(before), 1);
        assert_eq!(stage.engine_of(before), B);
        let known = stage.router().costs().handoff_us;
        stage.moved(stage.leg_of(before), true);
        stage.wait(60_000);
        stage.give(stage.leg_of(before), 1);
        stage.router().costs().handoff_us - known
    };
    assert!(learnt(0) > 0.0, "an idle engine that takes a minute is slow");
    // Eight of them fill its memory.
    assert_eq!(learnt(8), 0.0);
}
