//! What the router learns of its engines while it serves, and what it says of its decisions.

use dualpool_router::{Action, RouterSettings, Signal, SignalSettings};
use dualpool_types::records::{Placed, RouterNote};
use dualpool_types::{Arrangement, EngineId, EngineStats, LegId, Micros, PolicyKind, RequestId, Tuning};

use super::script::{A, B, Stage, split};

fn warm() -> RouterSettings {
    RouterSettings { signals: SignalSettings { warm_up_requests: 0, ..SignalSettings::default() }, ..RouterSettings::default() }
}

fn signal(stage: &Stage, engine: EngineId, signal: Signal) -> Option<f64> {
    stage.router().engines()[engine.index()].signals.get(signal, stage.now)
}

fn alone(settings: &RouterSettings) -> Stage {
    Stage::with(1, &Arrangement::shared("one", PolicyKind::LeastLoad, 1, Tuning::default()), settings)
}

#[test]
fn first_tokens_and_gaps_are_timed_from_what_passes_through() {
    let mut stage = alone(&warm());
    stage.arrive(0, 100, 8);
    let leg = stage.leg_of(0);
    stage.now = stage.now.plus(Micros(49_000));
    stage.give(leg, 1); // Every event takes a millisecond more.
    assert_eq!(signal(&stage, A, Signal::Ttft), Some(50_000.0));
    assert_eq!(signal(&stage, A, Signal::Itl), None);
    stage.now = stage.now.plus(Micros(29_000));
    stage.give(leg, 2);
    assert_eq!(signal(&stage, A, Signal::Itl), Some(15_000.0), "two tokens in 30 ms");
    let expected = 50_000.0 / stage.router().costs().alone(100.0);
    assert!((signal(&stage, A, Signal::Stretch).unwrap() - expected).abs() < 1e-9);
}

#[test]
fn a_hand_off_is_no_first_token_of_the_engine_that_takes_over() {
    let arrangement = split(PolicyKind::FullDisaggregation, &[A], &[B]);
    let mut stage = Stage::with(2, &arrangement, &warm());
    stage.arrive(0, 500, 8);
    stage.give(stage.leg_of(0), 1);
    let leg = stage.leg_of(0);
    stage.moved(leg, true);
    stage.give(leg, 1);
    assert!(signal(&stage, A, Signal::Ttft).is_some());
    assert_eq!(signal(&stage, B, Signal::Ttft), None);
    stage.give(leg, 1);
    assert!(signal(&stage, B, Signal::Itl).is_some());
}

#[test]
fn rates_are_of_the_time_in_which_there_was_work() {
    let mut stage = alone(&warm());
    let report = |steps, prompt_tokens_computed, output_tokens, running| EngineStats {
        steps,
        prompt_tokens_computed,
        output_tokens,
        running,
        ..EngineStats::default()
    };
    stage.stats(A, report(10, 0, 0, 2));
    stage.now = stage.now.plus(Micros(99_000));
    stage.stats(A, report(11, 200, 1, 2));
    assert_eq!(signal(&stage, A, Signal::PrefillRate), Some(2_000.0));
    assert_eq!(signal(&stage, A, Signal::DecodeRate), Some(10.0));
    assert!(signal(&stage, A, Signal::Pace).is_some());
    stage.stats(A, report(12, 200, 1, 0));
    let before = signal(&stage, A, Signal::PrefillRate);
    // It was idle in between.
    stage.now = stage.now.plus(Micros(4_000_000));
    stage.stats(A, report(13, 300, 2, 1));
    assert_eq!(signal(&stage, A, Signal::PrefillRate), before);
    // It counts from zero: it is another engine than it was.
    stage.stats(A, report(1, 10, 0, 1));
    assert_eq!(signal(&stage, A, Signal::PrefillRate), None);
}

#[test]
fn the_first_requests_and_the_last_arrangement_leave_no_trace() {
    let mut stage = alone(&RouterSettings::default());
    let serve = |stage: &mut Stage, request| {
        stage.arrive(request, 100, 2);
        let leg = stage.leg_of(request);
        stage.give(leg, 1);
        stage.give(leg, 1);
    };
    (0..2).for_each(|request| serve(&mut stage, request));
    assert_eq!((signal(&stage, A, Signal::Ttft), signal(&stage, A, Signal::Itl)), (None, None));
    (2..4).for_each(|request| serve(&mut stage, request));
    assert!(signal(&stage, A, Signal::Ttft).is_some() && signal(&stage, A, Signal::Itl).is_some());
    stage.host.arrange(&Arrangement::shared("next", PolicyKind::Score, 1, Tuning::default())).unwrap();
    assert_eq!(signal(&stage, A, Signal::Ttft), None);
    serve(&mut stage, 4);
    assert!(signal(&stage, A, Signal::Ttft).is_some(), "the engine is as warm as it was");
    stage.die(A);
    assert_eq!(signal(&stage, A, Signal::Ttft), None);
}

fn placed(actions: &[Action]) -> Vec<Placed> {
    let note = |action: &Action| match action {
        Action::Note(note) => match note.as_ref() {
            RouterNote::Placed(placed) => Some(placed.clone()),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(note).collect()
}

#[test]
fn every_placement_is_explained_to_who_asks() {
    for policy in PolicyKind::ALL {
        let arrangement = if policy.needs_pools() {
            split(policy, &[A], &[B])
        } else {
            Arrangement::shared("test", policy, 2, Tuning::default())
        };
        let mut stage = Stage::with(2, &arrangement, &RouterSettings { explain: true, ..RouterSettings::default() });
        let actions = stage.arrive(7, 1_000, 8);
        let notes = placed(&actions);
        assert_eq!(notes.len(), 1, "{}", policy.name());
        let note = &notes[0];
        assert_eq!((note.request, note.policy, note.chosen), (RequestId(7), policy, stage.engine_of(7)));
        assert_eq!((note.prompt_tokens, note.outputs, note.from), (1_000, 8, None));
        assert_eq!(note.prefill_only, stage.live[&stage.leg_of(7)].leg.hold);
        assert!(note.candidates.iter().any(|candidate| candidate.engine == note.chosen && candidate.score.is_some()));
        let text = serde_json::to_string(&RouterNote::Placed(note.clone())).unwrap();
        assert!(text.starts_with(r#"{"kind":"placed","request":7,"#), "{text}");
        assert_eq!(serde_json::from_str::<RouterNote>(&text).unwrap(), RouterNote::Placed(note.clone()));
        if note.prefill_only {
            let notes = placed(&stage.give(LegId { request: RequestId(7), leg: 0 }, 1));
            assert_eq!((notes.len(), notes[0].from, notes[0].chosen, notes[0].prefill_only), (1, Some(A), B, false));
        }
    }
}

#[test]
fn nobody_who_does_not_ask_is_told() {
    let mut stage = Stage::pair(PolicyKind::FullDisaggregation);
    stage.arrive(0, 1_000, 8);
    stage.give(stage.leg_of(0), 1);
    assert_eq!(placed(stage.actions()), []);
}
