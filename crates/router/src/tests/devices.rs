//! What devices say of themselves: decides between equals, never against the load, and not for long.

use dualpool_types::{Arrangement, DeviceSignals, EngineId, Micros, Objectives, PolicyKind, Time, Tuning};

use super::made_up::FACTS;
use crate::placement::{Ask, Placement};
use crate::{DEVICE_SIGNALS_AGE_MAX, Event, Router, RouterSettings};

const A: EngineId = EngineId(0);
const B: EngineId = EngineId(1);

const START: Time = Time(10_000_000);

fn router(policy: PolicyKind) -> Router {
    let mut router = Router::new(&[FACTS; 2], &RouterSettings::default());
    router.arrange(&Arrangement::shared("test", policy, 2, Tuning::default())).unwrap();
    router
}

fn said(router: &mut Router, at: Time, engine: EngineId, signals: DeviceSignals) {
    router.handle(at, Event::DeviceSignals { engine, signals }, &mut Vec::new());
}

/// Where the next four requests would go.
fn places(router: &mut Router) -> Vec<EngineId> {
    let objectives = Objectives { ttft_us_max: Micros::from_ms(500.0), itl_us_max: Micros::from_ms(100.0) };
    let ask = Ask { prompt_tokens: 64, outputs: 16, objectives };
    let place = |_| match router.decide(&ask).unwrap() {
        Placement::Whole(engine) | Placement::Split(engine) => engine,
    };
    (0..4).map(place).collect()
}

#[test]
fn of_equal_engines_the_one_on_the_healthier_device_is_chosen() {
    for trouble in [
        DeviceSignals { slowed: Some(true), ..DeviceSignals::default() },
        DeviceSignals { busy: Some(0.9), ..DeviceSignals::default() },
        DeviceSignals { lost: true, ..DeviceSignals::default() },
    ] {
        let mut router = router(PolicyKind::LeastLoad);
        said(&mut router, START, A, trouble);
        said(&mut router, START, B, DeviceSignals { busy: Some(0.0), slowed: Some(false), ..DeviceSignals::default() });
        assert_eq!(places(&mut router), [B; 4], "{trouble:?}");
    }
}

#[test]
fn signals_that_are_too_old_count_as_none() {
    let mut router = router(PolicyKind::LeastLoad);
    said(&mut router, START, A, DeviceSignals { slowed: Some(true), ..DeviceSignals::default() });
    let still = START.plus(DEVICE_SIGNALS_AGE_MAX);
    assert_eq!(router.engines()[0].device(still).map(|(at, _)| at), Some(START));
    // Any event moves the router's time on; this one is of an engine that it does not have.
    said(&mut router, still, EngineId(9), DeviceSignals::default());
    assert_eq!(places(&mut router), [B; 4]);
    said(&mut router, still.plus(Micros(1)), EngineId(9), DeviceSignals::default());
    assert_eq!(places(&mut router), [A, B, A, B]);
    assert_eq!(router.engines()[0].device(still.plus(Micros(1))), None);
}

#[test]
fn unknown_signals_and_a_policy_without_signals_change_nothing() {
    let mut silent = router(PolicyKind::LeastLoad);
    said(&mut silent, START, A, DeviceSignals::default());
    assert_eq!(places(&mut silent), [A, B, A, B]);
    let mut blind = router(PolicyKind::RoundRobin);
    said(&mut blind, START, A, DeviceSignals { slowed: Some(true), ..DeviceSignals::default() });
    assert_eq!(places(&mut blind), [A, B, A, B]);
}

#[test]
fn load_outweighs_a_device_that_is_slowed_and_not_one_that_is_lost() {
    use dualpool_types::{Class, Priority, Request, RequestId, Sampling};
    let request = |id| Request {
        id: RequestId(id),
        prompt: vec![1; 64].into(),
        max_tokens: 16,
        ignore_eos: true,
        sampling: Sampling::default(),
        class: Class::Short,
        priority: Priority::Normal,
        objectives: Objectives { ttft_us_max: Micros::from_ms(500.0), itl_us_max: Micros::from_ms(100.0) },
    };
    let mut router = router(PolicyKind::LeastLoad);
    said(&mut router, START, A, DeviceSignals { slowed: Some(true), ..DeviceSignals::default() });
    router.handle(START, Event::Arrived(request(0)), &mut Vec::new());
    assert_eq!(router.demand(B).depth(), 1);
    assert_eq!(places(&mut router), [A; 4], "an idle engine on a slow device before a loaded one");
    said(&mut router, START, A, DeviceSignals { lost: true, ..DeviceSignals::default() });
    assert_eq!(places(&mut router), [B; 4]);
}
