//! What a request is predicted to get, and that it is judged by what will be done with it.

use dualpool_router::{AdmissionSettings, EarlyRejection, RouterSettings, SignalSettings};
use dualpool_types::{Arrangement, Micros, Objectives, PolicyKind, Priority, RejectReason, Sampling, Tuning};

use super::admission::{PATIENT, rejection};
use super::script::{A, B, Stage, prompt, split};

/// Every priority may use up the whole of its objectives, and engines are warm from the start.
fn rejecting(reject: EarlyRejection) -> RouterSettings {
    RouterSettings {
        admission: AdmissionSettings { reject, reject_over: [1.0; 3], ..AdmissionSettings::default() },
        signals: SignalSettings { warm_up_requests: 0, ..SignalSettings::default() },
        ..RouterSettings::default()
    }
}

#[test]
fn what_is_cached_is_left_out_of_a_forecast_once() {
    // 496 of 1,008 tokens are not cached: 342 ms by the cost model. All of them would take 695 ms.
    let turned_away = |ttft_ms: f64| {
        let shared = Arrangement::shared("warm", PolicyKind::CacheAware, 2, Tuning::default());
        let mut stage = Stage::with(2, &shared, &rejecting(EarlyRejection::Naive));
        let mut text = prompt(7, 1_008);
        stage.arrive_saying(Priority::Normal, 0, text.clone(), 1, PATIENT);
        stage.give(stage.leg_of(0), 1);
        text[512..].iter_mut().for_each(|token| *token += 1);
        let objectives = Objectives { ttft_us_max: Micros::from_ms(ttft_ms), ..PATIENT };
        stage.arrive_saying(Priority::Normal, 1, text, 1, objectives);
        rejection(&stage, 1).is_some()
    };
    assert!(turned_away(300.0) && !turned_away(400.0));
}

#[test]
fn who_cannot_move_is_not_judged_by_a_move() {
    // A step takes 15 ms, a hand-off with the two steps after it 36 ms.
    let objectives = Objectives { itl_us_max: Micros(25_000), ..PATIENT };
    for reject in [EarlyRejection::Naive, EarlyRejection::Predictive] {
        let mut stage = Stage::with(2, &split(PolicyKind::FullDisaggregation, &[A], &[B]), &rejecting(reject));
        stage.arrive_sampled(0, 100, 8, objectives, Sampling::default());
        assert!(matches!(rejection(&stage, 0), Some(RejectReason::WouldMissItl { .. })), "{reject:?}");
        stage.arrive_sampled(1, 100, 8, objectives, Sampling { temperature: 0.7, seed: Some(1), ..Sampling::default() });
        assert_eq!(rejection(&stage, 1), None, "{reject:?}");
        assert!(!stage.live[&stage.leg_of(1)].leg.hold);
        stage.give(stage.leg_of(1), 8);
        stage.check_over();
    }
}

#[test]
fn a_slow_engine_is_predicted_to_be_slow() {
    // At the fleet's pace: 714 ms to the first token, and 15 ms from one to the next.
    let soon = Objectives { ttft_us_max: Micros(1_000_000), ..PATIENT };
    let smooth = Objectives { itl_us_max: Micros(25_000), ..PATIENT };
    for (objectives, by_ttft) in [(soon, true), (smooth, false)] {
        for reject in [EarlyRejection::Naive, EarlyRejection::Predictive] {
            let alone = Arrangement::shared("one", PolicyKind::LeastLoad, 1, Tuning::default());
            let mut stage = Stage::with(1, &alone, &rejecting(reject));
            stage.arrive_with(0, 1_000, 8, objectives);
            assert_eq!(rejection(&stage, 0), None, "{reject:?}");
            stage.give(stage.leg_of(0), 8);
            stage.slowed(A, 3.0);
            stage.arrive_with(1, 1_000, 8, objectives);
            let ttft = matches!(rejection(&stage, 1), Some(RejectReason::WouldMissTtft { .. }));
            let itl = matches!(rejection(&stage, 1), Some(RejectReason::WouldMissItl { .. }));
            assert_eq!((ttft, itl), (by_ttft, !by_ttft), "{reject:?}");
            stage.check_over();
        }
    }
}

#[test]
fn what_is_cached_counts_at_the_door_too() {
    let admission = AdmissionSettings { queue_max: 4, ..rejecting(EarlyRejection::Naive).admission };
    let settings = RouterSettings { max_in_flight: 1, admission, ..rejecting(EarlyRejection::Naive) };
    let mut stage = Stage::with(2, &Arrangement::shared("warm", PolicyKind::CacheAware, 2, Tuning::default()), &settings);
    let (warm, cold) = (prompt(7, 1_008), prompt(8, 1_008));
    stage.arrive_saying(Priority::Normal, 0, warm.clone(), 1, PATIENT);
    stage.give(stage.leg_of(0), 1);
    stage.arrive_with(1, 64, 1, PATIENT);
    // All of such a prompt would take 695 ms.
    let objectives = Objectives { ttft_us_max: Micros(400_000), ..PATIENT };
    stage.arrive_saying(Priority::Normal, 2, warm, 1, objectives);
    assert_eq!(rejection(&stage, 2), None);
    stage.arrive_saying(Priority::Normal, 3, cold, 1, objectives);
    assert!(matches!(rejection(&stage, 3), Some(RejectReason::WouldMissTtft { .. })));
    stage.give(stage.leg_of(1), 1);
    stage.give(stage.leg_of(2), 1);
    stage.check_over();
}
