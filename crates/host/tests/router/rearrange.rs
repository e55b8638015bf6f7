//! Arrangements that change with requests in flight, and engines that change pools.

use rand::Rng as _;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};

use dualpool_router::{Action, EngineFacts, Event, RoleSettings, Router, RouterSettings};
use dualpool_types::records::RouterNote;
use dualpool_types::{Arrangement, EngineId, Micros, PolicyKind, Role, Tuning, seeded};

use super::script::{A, B, FACTS, Stage, split};

const C: EngineId = EngineId(2);
const D: EngineId = EngineId(3);

const SMALL: Tuning = Tuning { max_num_batched_tokens: Some(128), long_prefill_token_threshold: Some(64) };

fn tunes(actions: &[Action]) -> Vec<(EngineId, Tuning)> {
    let of = |action: &Action| match action {
        Action::Tune { engine, tuning } => Some((*engine, *tuning)),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

fn changes(actions: &[Action]) -> Vec<(EngineId, Role, Role)> {
    let of = |action: &Action| match action {
        Action::Note(note) => match **note {
            RouterNote::RoleChanged { engine, from, to, .. } => Some((engine, from, to)),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

#[test]
fn a_split_leg_hands_over_under_an_arrangement_without_pools() {
    let mut stage = Stage::pair(PolicyKind::FullDisaggregation);
    stage.arrive(0, 1000, 4);
    let first = stage.leg_of(0);
    stage.rearrange(&Arrangement::shared("shared", PolicyKind::LeastLoad, 2, Tuning::default()));
    stage.give(first, 1);
    let second = stage.leg_of(0);
    assert_eq!(stage.engine_of(0), B, "loading is sooner than computing 1000 tokens again");
    stage.moved(second, true);
    stage.give(second, 3);
    stage.check_over();
}

#[test]
fn what_runs_stays_and_what_comes_follows_the_new_arrangement() {
    let mut stage = Stage::new(2, &Arrangement::shared("shared", PolicyKind::RoundRobin, 2, Tuning::default()));
    stage.arrive(0, 64, 4);
    stage.arrive(1, 64, 4);
    assert_eq!((stage.engine_of(0), stage.engine_of(1)), (A, B));
    stage.rearrange(&split(PolicyKind::FullDisaggregation, &[A], &[B]));
    stage.arrive(2, 64, 4);
    assert_eq!((stage.engine_of(0), stage.engine_of(1), stage.engine_of(2)), (A, B, A));
    assert!(stage.live[&stage.leg_of(2)].leg.hold);
    for request in [0, 1] {
        stage.give(stage.leg_of(request), 4);
    }
    stage.give(stage.leg_of(2), 1);
    stage.moved(stage.leg_of(2), true);
    stage.give(stage.leg_of(2), 3);
    stage.check_over();
}

#[test]
fn engines_are_tuned_at_once_but_for_larger_steps_beside_decodes() {
    let mut stage = Stage::new(2, &Arrangement::shared("small", PolicyKind::RoundRobin, 2, SMALL));
    stage.arrive(0, 64, 4);
    stage.give(stage.leg_of(0), 1);
    let large = Arrangement::shared("large", PolicyKind::RoundRobin, 2, Tuning::default());
    let actions = stage.rearrange(&large);
    assert_eq!(tunes(&actions), [(B, Tuning::default())], "a request decodes on A");
    assert_eq!(tunes(&stage.feed(Event::Tick)), []);
    stage.give(stage.leg_of(0), 3);
    assert_eq!(tunes(&stage.feed(Event::Tick)), [(A, Tuning::default())]);
    stage.check_over();
}

#[test]
fn larger_steps_do_not_wait_for_ever() {
    let mut stage = Stage::new(1, &Arrangement::shared("small", PolicyKind::RoundRobin, 1, SMALL));
    stage.arrive(0, 64, 4);
    stage.give(stage.leg_of(0), 1);
    stage.rearrange(&Arrangement::shared("large", PolicyKind::RoundRobin, 1, Tuning::default()));
    let ticks = (0..10_000).take_while(|_| tunes(&stage.feed(Event::Tick)).is_empty()).count();
    assert!((4_000..6_000).contains(&ticks), "{ticks} ticks of 1 ms");
}

#[test]
fn an_arrangement_that_does_not_suit_the_fleet_changes_nothing() {
    let mut router = Router::new(&[EngineFacts { kv_transfer: false, ..FACTS }; 2], &RouterSettings::default());
    assert!(router.arrange(&split(PolicyKind::DualPool, &[A], &[B])).is_err());
    assert_eq!(router.role(A), Role::Shared);
}

fn roles() -> RouterSettings {
    RouterSettings { roles: RoleSettings { enabled: true, ..RoleSettings::default() }, ..RouterSettings::default() }
}

/// Two engines prefill, two decode, and more prompts come than two engines can compute in time.
fn flooded(prefill: &[EngineId], decode: &[EngineId], settings: &RouterSettings) -> Stage {
    let engines = prefill.len() + decode.len();
    let mut stage = Stage::with(engines, &split(PolicyKind::FullDisaggregation, prefill, decode), settings);
    (0..40).for_each(|request| drop(stage.arrive(request, 1000, 8)));
    stage
}

fn ticks(stage: &mut Stage, count: usize) -> Vec<Action> {
    (0..count).flat_map(|_| stage.feed(Event::Tick)).collect()
}

#[test]
fn an_engine_joins_the_pool_that_starves_once_that_lasts() {
    let mut stage = flooded(&[A, B], &[C, D], &roles());
    assert_eq!(changes(&ticks(&mut stage, 1_900)), [], "not before hold_ms");
    assert_eq!(changes(&ticks(&mut stage, 3_000)), [(C, Role::Decode, Role::Prefill)]);
    stage.arrive(100, 1000, 8);
    assert_eq!(stage.engine_of(100), C, "new prompts go where nothing waits");
    assert_eq!(changes(&ticks(&mut stage, 30_000)), [], "D is the last one that decodes");
}

#[test]
fn a_pool_keeps_its_last_engine_and_the_dead_count_for_nothing() {
    let mut stage = flooded(&[A], &[B], &roles());
    assert_eq!(changes(&ticks(&mut stage, 20_000)), []);
    let mut stage = flooded(&[A, B], &[C, D], &roles());
    stage.die(D);
    assert_eq!(changes(&ticks(&mut stage, 20_000)), []);
    let mut stage = flooded(&[A, B], &[C, D], &roles());
    stage.drain(D);
    assert_eq!(changes(&ticks(&mut stage, 20_000)), [], "what is drained takes no work in any pool");
}

#[test]
fn roles_stay_unless_they_are_asked_to_change() {
    let mut stage = flooded(&[A, B], &[C, D], &RouterSettings::default());
    assert_eq!(changes(&ticks(&mut stage, 20_000)), []);
}

#[test]
fn an_engine_that_changes_pools_brings_its_answers_to_their_end() {
    let mut stage = Stage::with(4, &split(PolicyKind::FullDisaggregation, &[A, B], &[C, D]), &roles());
    stage.arrive(0, 64, 8);
    stage.give(stage.leg_of(0), 1);
    stage.moved(stage.leg_of(0), true);
    stage.give(stage.leg_of(0), 1);
    let other = if stage.engine_of(0) == C { D } else { C };
    (1..40).for_each(|request| drop(stage.arrive(request, 1000, 8)));
    assert_eq!(changes(&ticks(&mut stage, 5_000)), [(other, Role::Decode, Role::Prefill)], "the one with less to do");
    stage.give(stage.leg_of(0), 6);
    assert!(stage.result(dualpool_types::RequestId(0)).is_some());
}

/// Whatever the load does, changes are rare: no two within `cool_down_ms`, and both pools always have an engine.
#[test]
fn engines_do_not_go_to_and_fro() {
    for seed in 0..30 {
        let rng = &mut seeded(seed, "load");
        let mut settings = roles();
        (settings.roles.hold_ms, settings.roles.cool_down_ms) = (100, 1_000);
        let mut stage = Stage::with(4, &split(PolicyKind::FullDisaggregation, &[A, B], &[C, D]), &settings);
        let (mut changed, mut arrived) = (Vec::new(), 0);
        for _ in 0..8_000 {
            match rng.random_range(0..10) {
                0 if arrived < 600 => {
                    stage.arrive(arrived, *[64, 1_000].choose(rng).unwrap_or(&64), rng.random_range(1..40));
                    arrived += 1;
                }
                1..5 => {
                    let leg = stage.live.keys().copied().choose(rng);
                    leg.into_iter().for_each(|leg| {
                        let waits = stage.live[&leg].waits.is_some();
                        drop(if waits { stage.moved(leg, true) } else { stage.give(leg, 1) });
                    });
                }
                _ => {
                    let actions = stage.feed(Event::Tick);
                    changed.extend(changes(&actions).into_iter().map(|_| stage.now));
                }
            }
            let members = |role| stage.router().engines().iter().filter(|engine| engine.role == role).count();
            assert!(members(Role::Prefill) > 0 && members(Role::Decode) > 0, "seed {seed}");
        }
        let apart = changed.windows(2).all(|pair| pair[1].since(pair[0]) >= Micros(1_000_000));
        assert!(apart, "seed {seed}: {changed:?}");
    }
}
