//! What `auto` takes for the traffic.

use super::script::Stage;
use crate::config::{AdmissionSettings, EarlyRejection, RouterSettings};
use crate::core::{Micros, Objectives, RequestId, Tuning};
use crate::router::{Action, Arrangement, Event, PolicyKind};
use crate::telemetry::RouterNote;

/// With the first request that it goes by, it makes its first choice.
fn chooses(stage: &mut Stage) -> bool {
    let chosen = |action: &Action| matches!(action, Action::Note(note) if matches!(**note, RouterNote::Rearranged { .. }));
    stage.feed(Event::Tick).iter().any(chosen)
}

#[test]
fn only_who_is_let_in_is_rehearsed() {
    let admission = AdmissionSettings { reject: EarlyRejection::Naive, ..AdmissionSettings::default() };
    let settings = RouterSettings { admission, ..RouterSettings::default() };
    let mut stage = Stage::with(2, &Arrangement::shared("auto", PolicyKind::Auto, 2, Tuning::default()), &settings);
    stage.router.engines[1].facts.max_model_len = 1_000;
    stage.arrive(0, 2_000, 8);
    assert!(!chooses(&mut stage), "one engine is too small for it, so it was refused");
    stage.arrive_with(1, 500, 8, Objectives { ttft_us_max: Micros(100_000), itl_us_max: Micros(200_000) });
    assert!(!chooses(&mut stage), "it would have been late, so it was turned away");
    assert!([0, 1].iter().all(|request| stage.clients[&RequestId(*request)].result.is_some()));
    stage.arrive(2, 500, 8);
    assert!(chooses(&mut stage));
    stage.give(stage.leg_of(2), 8);
    stage.check_over();
}
