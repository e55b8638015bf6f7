//! What `auto` takes for the traffic.

use dualpool_router::{Action, AdmissionSettings, EarlyRejection, EngineFacts, Event, RouterSettings};
use dualpool_types::records::RouterNote;
use dualpool_types::{Arrangement, Micros, Objectives, PolicyKind, RequestId, Role, Tuning};

use super::script::{FACTS, Stage};

/// With the first request that it goes by, it makes its first choice.
fn chooses(stage: &mut Stage) -> Option<Arrangement> {
    let chosen = |action: Action| match action {
        Action::Note(note) => match *note {
            RouterNote::Rearranged { to, .. } => Some(to),
            _ => None,
        },
        _ => None,
    };
    stage.feed(Event::Tick).into_iter().find_map(chosen)
}

fn auto() -> Arrangement {
    Arrangement::shared("auto", PolicyKind::Auto, 2, Tuning::default())
}

#[test]
fn only_who_is_let_in_is_rehearsed() {
    let admission = AdmissionSettings { reject: EarlyRejection::Naive, ..AdmissionSettings::default() };
    let settings = RouterSettings { admission, ..RouterSettings::default() };
    let facts = [FACTS, EngineFacts { max_model_len: 1_000, ..FACTS }];
    let mut stage = Stage::of(&facts, &auto(), &settings);
    stage.arrive(0, 2_000, 8);
    assert_eq!(chooses(&mut stage), None, "one engine is too small for it, so it was refused");
    stage.arrive_with(1, 500, 8, Objectives { ttft_us_max: Micros(100_000), itl_us_max: Micros(200_000) });
    assert_eq!(chooses(&mut stage), None, "it would have been late, so it was turned away");
    assert!([0, 1].iter().all(|request| stage.result(RequestId(*request)).is_some()));
    stage.arrive(2, 500, 8);
    assert!(chooses(&mut stage).is_some());
    stage.give(stage.leg_of(2), 8);
    stage.check_over();
}

#[test]
fn it_begins_with_pools_and_with_steps_for_more_than_the_one_word_that_came() {
    let mut stage = Stage::new(2, &auto());
    stage.arrive(0, 3, 8);
    let first = chooses(&mut stage).unwrap();
    assert_eq!((first.policy, &first.roles[..]), (PolicyKind::DualPool, &[Role::Prefill, Role::Decode][..]));
    assert!(first.tunings.iter().all(|tuning| tuning.max_num_batched_tokens >= Some(128)), "{first:?}");
    stage.give(stage.leg_of(0), 8);
    stage.check_over();
}

#[test]
fn where_kv_cannot_move_it_begins_with_engines_all_alike() {
    let facts = [EngineFacts { kv_transfer: false, ..FACTS }, FACTS];
    let mut stage = Stage::of(&facts, &auto(), &RouterSettings::default());
    stage.arrive(0, 3, 8);
    assert_eq!(chooses(&mut stage).unwrap().policy, PolicyKind::Balanced);
    stage.give(stage.leg_of(0), 8);
    stage.check_over();
}
