//! What the router believes of prefix caches, and what that changes.

use dualpool_router::{Action, CacheAwareSettings, EngineFacts, Event, PrefixTracking, Router, RouterSettings};
use dualpool_types::{Arrangement, EngineId, FinishReason, LegId, Micros, PolicyKind, Priority, Time, TokenId, Tuning};

use super::script::{A, B, FACTS, OBJECTIVES, Stage, prompt, split};

fn shared(policy: PolicyKind) -> Arrangement {
    Arrangement::shared("test", policy, 2, Tuning::default())
}

fn tracking(track: PrefixTracking) -> RouterSettings {
    let mut settings = RouterSettings::default();
    settings.prefix.track = track;
    settings
}

/// Requests go where most of the prompt is cached, whatever else is there.
fn nearest() -> Stage {
    let cache_aware = CacheAwareSettings { match_min: 0.0, imbalance_abs: u32::MAX, ..CacheAwareSettings::default() };
    let settings = RouterSettings { cache_aware, ..tracking(PrefixTracking::Auto) };
    let mut stage = Stage::with(2, &shared(PolicyKind::LeastLoad), &settings);
    assert!(stage.router().prefixes().is_none(), "no policy asked for the index");
    stage.host.arrange(&shared(PolicyKind::CacheAware)).unwrap();
    stage
}

/// All of them to A.
fn nearest_on_a() -> Stage {
    let mut stage = nearest();
    stage.drain(B);
    stage
}

fn blocks(stage: &Stage) -> [u32; 2] {
    [A, B].map(|engine| stage.router().prefixes().unwrap().blocks(engine))
}

fn ask(stage: &mut Stage, request: u64, prompt: &[TokenId]) -> LegId {
    stage.arrive_saying(Priority::Normal, request, prompt.to_vec(), 21, OBJECTIVES);
    stage.leg_of(request)
}

#[test]
fn a_prompt_is_cached_from_its_first_token_on_and_its_outputs_from_the_end() {
    let mut stage = nearest();
    let leg = ask(&mut stage, 0, &prompt(0, 100));
    assert_eq!(blocks(&stage), [0, 0]);
    stage.give(leg, 1);
    assert_eq!(blocks(&stage), [6, 0], "the seventh block is not full");
    stage.give(leg, 15);
    assert_eq!(blocks(&stage), [6, 0]);
    let follow_up: Vec<TokenId> = stage.live[&leg].leg.prompt.iter().chain(&stage.live[&leg].given).copied().collect();
    stage.give(leg, 5);
    assert_eq!(blocks(&stage), [7, 0], "of 121 tokens the last one is not computed");
    let next = ask(&mut stage, 1, &follow_up);
    assert_eq!((stage.engine_of(1), stage.router().demand(A).prompt_tokens), (A, 116 - 112));
    stage.give(next, 21);
    stage.check_over();
}

#[test]
fn the_last_token_of_a_prompt_is_always_computed() {
    let mut stage = nearest();
    let text = prompt(0, 96);
    let leg = ask(&mut stage, 0, &text);
    stage.give(leg, 21);
    ask(&mut stage, 1, &text);
    assert_eq!(stage.router().demand(A).prompt_tokens, 16);
    ask(&mut stage, 2, &text[..95]);
    assert_eq!(stage.router().demand(A).prompt_tokens, 16 + 15);
}

#[test]
fn a_long_prompt_that_is_cached_is_a_short_one_to_compute() {
    let mut stage = nearest();
    let text = prompt(0, 1000);
    let leg = ask(&mut stage, 0, &text);
    assert_eq!(stage.router().demand(A).long_prefills, 1);
    stage.give(leg, 21);
    ask(&mut stage, 1, &text);
    assert_eq!((stage.router().demand(A).long_prefills, stage.router().demand(A).prompt_tokens), (0, 8));
}

#[test]
fn an_engine_that_has_less_than_believed_is_believed_to_have_evicted_all_that_is_older() {
    let mut stage = nearest_on_a();
    let (old, text, new) = (prompt(1, 160), prompt(2, 160), prompt(3, 160));
    for (request, text) in [&old, &text, &new].into_iter().enumerate() {
        let leg = ask(&mut stage, request as u64, text);
        stage.give(leg, 1);
        stage.cancel(request as u64);
        stage.end(leg, &[], &FinishReason::Aborted);
    }
    assert_eq!(blocks(&stage), [30, 0]);
    let leg = ask(&mut stage, 9, &text);
    assert_eq!(stage.router().demand(A).prompt_tokens, 16);
    stage.cached_tokens = Some(64);
    stage.give(leg, 1);
    assert_eq!(blocks(&stage), [20, 0], "the old one is gone; what was missing is computed by now");
    let probe = |stage: &mut Stage, request, text: &[TokenId]| {
        let before = stage.router().demand(A).prompt_tokens;
        ask(stage, request, text);
        stage.router().demand(A).prompt_tokens - before
    };
    assert_eq!([probe(&mut stage, 10, &text), probe(&mut stage, 11, &new), probe(&mut stage, 12, &old)], [16, 16, 160]);
}

#[test]
fn what_an_engine_found_cached_is_no_longer_counted_as_its_backlog() {
    let mut stage = nearest_on_a();
    let (first, second) = (prompt(0, 400), prompt(1, 400));
    let leg = ask(&mut stage, 0, &first);
    ask(&mut stage, 1, &second);
    assert_eq!(stage.router().demand(A).prompt_tokens, 800);
    stage.cached_tokens = Some(384);
    stage.give(leg, 1);
    // The engine computed 16 tokens of the first prompt, and 100 of the second one in the same step.
    let stats = |computed, steps| dualpool_types::EngineStats { prompt_tokens_computed: computed, steps, ..Default::default() };
    stage.stats(A, stats(0, 1));
    stage.stats(A, stats(116, 2));
    assert_eq!(stage.router().engines()[0].backlog(), 300.0);
}

#[test]
fn a_cache_that_is_gone_is_forgotten() {
    let text = prompt(0, 320);
    let gone: [fn(&mut Stage); 2] = [
        |stage| {
            stage.feed(Event::PrefixCacheReset { engine: A });
        },
        |stage| {
            stage.die(A);
        },
    ];
    for gone in gone {
        let mut stage = nearest();
        let leg = ask(&mut stage, 0, &text);
        stage.give(leg, 1);
        assert_eq!(blocks(&stage), [20, 0]);
        gone(&mut stage);
        assert_eq!(blocks(&stage)[0], 0);
        // Nothing that ends on a dead engine is cached there.
        while let Some(&leg) = stage.live.keys().next() {
            stage.give(leg, 30);
        }
        stage.check_over();
    }
    let mut stage = nearest();
    stage.feed(Event::PrefixCacheReset { engine: EngineId(7) });
}

#[test]
fn kv_that_moved_is_cached_at_both_ends() {
    let settings = tracking(PrefixTracking::Always);
    let mut stage = Stage::with(2, &split(PolicyKind::FullDisaggregation, &[A], &[B]), &settings);
    let text = prompt(0, 320);
    let leg = ask(&mut stage, 0, &text);
    stage.give(leg, 1);
    assert_eq!(blocks(&stage), [20, 0]);
    let leg = stage.leg_of(0);
    stage.moved(leg, true);
    // What was loaded the engine says was cached, and that is no news of its cache.
    stage.cached_tokens = Some(320);
    stage.give(leg, 20);
    assert_eq!(blocks(&stage), [20, 21]);
    // The copy fails, and B has the prompt itself.
    stage.cached_tokens = None;
    let leg = ask(&mut stage, 1, &text);
    stage.give(leg, 1);
    let leg = stage.leg_of(1);
    stage.moved(leg, false);
    assert_eq!(stage.router().demand(B).prompt_tokens, 1, "of 321 tokens all but the newest one");
    stage.give(leg, 20);
    stage.check_over();
}

#[test]
fn an_engine_that_caches_nothing_is_believed_nothing_of() {
    let settings = tracking(PrefixTracking::Always);
    let facts = [EngineFacts { prefix_block_tokens: 0, ..FACTS }, FACTS];
    let mut router = Router::new(&facts, &settings);
    router.arrange(&shared(PolicyKind::RoundRobin)).unwrap();
    let mut actions = Vec::new();
    let text = prompt(0, 100);
    for request in 0..2 {
        let request = dualpool_types::Request {
            id: dualpool_types::RequestId(request),
            prompt: text.clone().into(),
            max_tokens: 4,
            ignore_eos: true,
            sampling: dualpool_types::Sampling::default(),
            class: dualpool_types::Class::Short,
            priority: dualpool_types::Priority::Normal,
            objectives: OBJECTIVES,
        };
        router.handle(Time(0), Event::Arrived(request), &mut actions);
    }
    for action in std::mem::take(&mut actions) {
        if let Action::Submit { leg, .. } = action {
            let output = Event::Output { leg: leg.id, tokens: &[5], cached_tokens: Some(0), finish: None };
            router.handle(Time(0).plus(Micros(9)), output, &mut actions);
        }
    }
    let prefixes = router.prefixes().unwrap();
    assert_eq!([A, B].map(|engine| prefixes.blocks(engine)), [0, 6]);
}

#[test]
fn only_who_asks_pays() {
    for (policy, track, on) in [
        (PolicyKind::LeastLoad, PrefixTracking::Auto, false),
        (PolicyKind::DualPool, PrefixTracking::Auto, false),
        (PolicyKind::LeastLoad, PrefixTracking::Always, true),
        (PolicyKind::LeastLoad, PrefixTracking::Never, false),
    ] {
        let arrangement = if policy.needs_pools() { split(policy, &[A], &[B]) } else { shared(policy) };
        let stage = Stage::with(2, &arrangement, &tracking(track));
        assert_eq!(stage.router().prefixes().is_some(), on, "{} with {track:?}", policy.name());
    }
}
