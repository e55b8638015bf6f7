//! Where the scoring policies send requests, and why.

use dualpool_types::{EngineId, Micros, PolicyKind, Role, Time};

use super::made_up::{FACTS, Made, ask, engine_of, fresh};
use crate::placement::Placement;
use crate::policies::{self, Policy};
use crate::{CacheAwareSettings, EngineFacts, RouterSettings, ScoreSettings, Signal};

fn score(settings: ScoreSettings) -> Box<dyn Policy> {
    policies::build(PolicyKind::Score, &RouterSettings { score: settings, ..RouterSettings::default() })
}

/// Nothing counts.
const SILENT: ScoreSettings = ScoreSettings {
    ttft: 0.0,
    itl: 0.0,
    prefill_rate: 0.0,
    decode_rate: 0.0,
    memory: 0.0,
    locality: 0.0,
    queue: 0.0,
    urgency: 0.0,
    handoff: 0.0,
    cost: 0.0,
    temperature: 0.0,
};

fn chosen(policy: &mut dyn Policy, made: &Made, prompt_tokens: u32) -> u16 {
    engine_of(policy.place(&made.view(), &ask(prompt_tokens, 16)).unwrap()).0
}

fn times(policy: &mut dyn Policy, made: &Made, places: usize) -> Vec<usize> {
    let mut counts = vec![0; made.engines.len()];
    (0..places).for_each(|_| counts[usize::from(chosen(policy, made, 64))] += 1);
    counts
}

#[test]
fn of_two_drawn_engines_the_less_loaded_one_wins() {
    let mut made = Made::new(2);
    made.decoding(0, 3);
    assert_eq!(times(&mut *fresh(PolicyKind::PowerOfTwo), &made, 50), [0, 50]);
    // The most loaded of three is never chosen, and the emptiest whenever it is drawn: in two of three pairs.
    let mut made = Made::new(3);
    made.decoding(0, 9);
    made.decoding(1, 3);
    let counts = times(&mut *fresh(PolicyKind::PowerOfTwo), &made, 3_000);
    assert!(counts[0] == 0 && (900..1_100).contains(&counts[1]), "{counts:?}");
    // Equals get equal shares, and a seed gives one sequence.
    let made = Made::new(5);
    let counts = times(&mut *fresh(PolicyKind::PowerOfTwo), &made, 5_000);
    assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    let sequence = |seed| {
        let mut policy = policies::build(PolicyKind::PowerOfTwo, &RouterSettings { seed, ..RouterSettings::default() });
        (0..20).map(|_| chosen(&mut *policy, &made, 64)).collect::<Vec<_>>()
    };
    assert_eq!(sequence(1), sequence(1));
    assert_ne!(sequence(1), sequence(2));
}

#[test]
fn a_cached_prefix_draws_its_requests_and_nobody_elses_overload_changes_that() {
    let mut made = Made::new(3);
    made.cached = vec![0, 512, 256];
    made.decoding(1, 8);
    made.decoding(2, 100);
    let policy = &mut *fresh(PolicyKind::CacheAware);
    assert_eq!(chosen(policy, &made, 1_000), 1, "eight more than the emptiest one is no imbalance, and engine-2 is not asked");
    made.decoding(1, 1);
    assert_eq!(chosen(policy, &made, 1_000), 0, "nine more is, and more than half again as many");
    made.decoding(0, 20);
    made.decoding(1, 20);
    assert_eq!(chosen(policy, &made, 1_000), 1, "29 against 20: nine more, and not half again as many");
    made.cached = vec![0, 200, 0];
    assert_eq!(chosen(policy, &made, 1_000), 0, "a fifth of the prompt is no hit");
    let settings = CacheAwareSettings { match_min: 0.1, ..CacheAwareSettings::default() };
    let eager =
        &mut *policies::build(PolicyKind::CacheAware, &RouterSettings { cache_aware: settings, ..RouterSettings::default() });
    assert_eq!(chosen(eager, &made, 1_000), 1);
}

#[test]
fn prompts_that_nobody_has_are_spread_also_over_a_quiet_fleet() {
    // The fleet is idle again before each arrival.
    assert_eq!(times(&mut *fresh(PolicyKind::CacheAware), &Made::new(4), 40), [10; 4]);
    let (policy, made) = (&mut *fresh(PolicyKind::CacheAware), Made::new(3));
    let places: Vec<u16> = [3_000, 64, 64, 64].map(|prompt| chosen(policy, &made, prompt)).to_vec();
    assert_eq!(places, [0, 1, 2, 1], "by tokens, and not by requests");
}

#[test]
fn each_term_speaks_for_the_engine_that_it_should() {
    let (at, now) = (Time(59_000_000), Time(60_000_000));
    let mut made = Made::of(&[FACTS, EngineFacts { cost_per_hour: Some(4.0), ..FACTS }]);
    made.engines[0].facts.cost_per_hour = Some(9.0);
    made.decoding(0, 4);
    made.cached[1] = 512;
    for (engine, us) in [(0, 900_000), (1, 300_000)] {
        let signals = &mut made.engines[engine].signals;
        signals.first_token(at, Some((Micros(us), 100_000.0)));
        signals.more_tokens(at, Micros(us), 1);
        assert_eq!(signals.get(Signal::Ttft, now), Some(us as f64));
    }
    type Turned = fn(&mut ScoreSettings);
    let terms: [(&str, Turned); 7] = [
        ("ttft", |s| s.ttft = 1.0),
        ("itl", |s| s.itl = 1.0),
        ("memory", |s| s.memory = 1.0),
        ("locality", |s| s.locality = 1.0),
        ("queue", |s| s.queue = 1.0),
        ("urgency", |s| s.urgency = 1.0),
        ("cost", |s| s.cost = 1.0),
    ];
    for (name, turn_up) in terms {
        let mut settings = SILENT;
        turn_up(&mut settings);
        assert_eq!(times(&mut *score(settings), &made, 8), [0, 8], "{name}");
    }
    assert_eq!(times(&mut *score(SILENT), &made, 8), [4, 4], "equals take turns");
}

#[test]
fn an_engine_of_which_nothing_is_known_neither_draws_nor_starves() {
    let mut made = Made::new(3);
    for (engine, us) in [(0, 100_000), (1, 300_000)] {
        made.engines[engine].signals.first_token(Time(59_000_000), Some((Micros(us), 100_000.0)));
    }
    let policy = &mut *score(ScoreSettings { ttft: 1.0, ..SILENT });
    policy.place(&made.explaining(), &ask(64, 16));
    let terms: Vec<f64> = {
        let mut candidates = made.explained();
        candidates.sort_by_key(|candidate| candidate.engine);
        candidates.iter().map(|candidate| candidate.terms["ttft"]).collect()
    };
    assert!((terms[0] - 1.0).abs() < 1e-12 && (terms[1] - 1.0 / 3.0).abs() < 1e-12, "{terms:?}");
    assert!((terms[2] - 2.0 / 3.0).abs() < 1e-12, "the mean of those that are known: {terms:?}");
}

#[test]
fn a_bad_first_token_is_forgotten_by_an_engine_that_got_no_more_requests() {
    let mut made = Made::new(2);
    for (engine, us) in [(0, 9_000_000), (1, 100_000)] {
        made.engines[engine].signals.first_token(Time(59_000_000), Some((Micros(us), 100_000.0)));
    }
    let policy = &mut *score(ScoreSettings { ttft: 1.0, ..SILENT });
    assert_eq!(times(policy, &made, 10), [0, 10]);
    made.now = Time(59_000_000 + 10_000_001);
    made.engines[1].signals.first_token(made.now, Some((Micros(100_000), 100_000.0)));
    assert_eq!(times(policy, &made, 10), [5, 5]);
}

#[test]
fn a_temperature_strays_from_the_best_by_its_own_seed() {
    let mut made = Made::new(3);
    made.decoding(1, 2);
    made.decoding(2, 4);
    let queue = |temperature| score(ScoreSettings { queue: 1.0, temperature, ..SILENT });
    assert_eq!(times(&mut *queue(0.0), &made, 100), [100, 0, 0]);
    let counts = times(&mut *queue(1.0), &made, 10_000);
    // Two fill the steps of an engine almost as long as four do. Costs of 0, 0.9 and 1: odds of 1, 0.41 and 0.37.
    assert!((5_450..5_850).contains(&counts[0]) && (1_900..2_250).contains(&counts[2]), "{counts:?}");
    assert_eq!(counts, times(&mut *queue(1.0), &made, 10_000));
    queue(1.0).place(&made.explaining(), &ask(64, 16));
    let total: f64 = made.explained().iter().map(|candidate| candidate.terms["probability"]).sum();
    assert!((total - 1.0).abs() < 1e-12);
}

#[test]
fn in_two_pools_prefill_and_decode_are_scored_apart() {
    let roles = [Role::Prefill, Role::Prefill, Role::Decode, Role::Decode];
    for kind in [PolicyKind::Score, PolicyKind::PredictedLatency] {
        let mut made = Made::pools(&roles);
        made.waiting(0, 2, 1_000);
        made.decoding(2, 8);
        made.decoding(3, 4);
        assert_eq!(made.place(kind, &ask(1_000, 16)), Some(Placement::Split(EngineId(1))), "{}", kind.name());
        assert_eq!(fresh(kind).decode_on(&made.view(), &ask(1_001, 15), EngineId(1)), Some(EngineId(3)), "{}", kind.name());
        // What a decode engine has in its cache need not be computed anywhere.
        made.cached[3] = 960;
        assert_eq!(made.place(kind, &ask(1_000, 16)), Some(Placement::Whole(EngineId(3))), "{}", kind.name());
        // Without links no engine can fetch the KV, so none is asked to.
        made.engines.iter_mut().for_each(|engine| engine.kv_lost = true);
        assert_eq!(fresh(kind).decode_on(&made.view(), &ask(1_001, 15), EngineId(1)), None, "{}", kind.name());
    }
}

#[test]
fn dual_pool_leaves_a_long_prompt_where_most_of_it_is_cached() {
    let mut made = Made::pools(&[Role::Prefill, Role::Decode]);
    made.decoding(1, 4);
    assert_eq!(made.place(PolicyKind::DualPool, &ask(1_000, 16)), Some(Placement::Split(EngineId(0))));
    made.cached[1] = 960;
    assert_eq!(made.place(PolicyKind::DualPool, &ask(1_000, 16)), Some(Placement::Whole(EngineId(1))));
}

#[test]
fn the_least_predicted_time_is_everybodys() {
    let place =
        |made: &Made, prompt, outputs| engine_of(made.place(PolicyKind::PredictedLatency, &ask(prompt, outputs)).unwrap()).0;
    // Six that decode would all wait for a long prompt; behind another one waits only this request.
    let mut made = Made::new(2);
    made.decoding(0, 6);
    made.waiting(1, 1, 1_000);
    assert_eq!(place(&made, 2_000, 2), 1);
    assert_eq!(place(&made, 16, 2), 0, "a short one would wait much longer there than it holds up here");
    // The prefix is worth a longer queue, as long as that is shorter than computing it.
    let mut made = Made::new(2);
    made.waiting(0, 1, 500);
    made.cached[0] = 960;
    assert_eq!(place(&made, 1_000, 16), 0);
    made.waiting(0, 1, 700);
    assert_eq!(place(&made, 1_000, 16), 1);
    // An engine whose steps take three times as long as others' gets what is worth it.
    let mut made = Made::new(2);
    made.decoding(1, 3);
    assert_eq!(place(&made, 64, 16), 0);
    made.engines[0].signals.stepped(Time(59_000_000), Micros(30_000), 10_000.0);
    assert_eq!(place(&made, 64, 16), 1);
    // Two behind which a long one would be late count for more than four that it holds up.
    let mut made = Made::new(2);
    made.decoding(0, 4);
    made.waiting(1, 1, 1_500);
    assert_eq!(place(&made, 1_500, 2), 1, "2.1 s");
    made.waiting(1, 1, 3_000);
    assert_eq!(place(&made, 1_500, 2), 0, "4.1 s, of 3");
    // A full cache.
    let mut made = Made::of(&[EngineFacts { kv_tokens: 100, ..FACTS }, FACTS]);
    made.decoding(1, 1);
    assert_eq!(place(&made, 64, 16), 0);
    made.engines[0].facts.kv_tokens = 60;
    made.decoding(0, 1);
    assert_eq!(place(&made, 1_000, 16), 1);
}
