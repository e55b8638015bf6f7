//! What holds of every policy's decision, on fleets made by chance.

use rand::seq::SliceRandom as _;

use dualpool_types::{EngineId, PolicyKind, Role, seeded};

use super::made_up::{Made, any_ask, any_fleet, engine_of, fresh};
use crate::policies::{Scorer, Stage};
use crate::{EngineState, Explanation, ScoreSettings};

const SEEDS: u64 = 400;

fn seeds(name: &str, check: impl Fn(&mut dualpool_types::Rng) + std::panic::RefUnwindSafe) {
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| check(&mut seeded(seed, name)));
        assert!(run.is_ok(), "{name} fails with seed {seed}; the panic above says how");
    }
}

/// Policies that rank all engines once, so that the best rank is the choice.
const RANKS_ONCE: [PolicyKind; 5] =
    [PolicyKind::RoundRobin, PolicyKind::LeastLoad, PolicyKind::PowerOfTwo, PolicyKind::CacheAware, PolicyKind::PredictedLatency];

#[test]
fn every_policy_decides_whatever_the_fleet_is_like_and_always_alike() {
    seeds("any fleet", |rng| {
        let (made, ask) = (any_fleet(rng), any_ask(rng));
        let any_alive = made.engines.iter().any(|engine| engine.alive);
        for kind in PolicyKind::ALL {
            let plan = made.place(kind, &ask);
            assert_eq!(plan, made.place(kind, &ask), "{}", kind.name());
            // When a pool has no engine alive, every policy falls back to the engines that are.
            assert_eq!(plan.is_some(), any_alive, "{}", kind.name());
            assert!(plan.is_none_or(|plan| made.engines[engine_of(plan).index()].alive), "{}", kind.name());
            let explained = fresh(kind).place(&made.explaining(), &ask);
            assert_eq!(plan, explained, "{}: looking changes nothing", kind.name());
        }
    });
}

#[test]
fn what_is_said_to_be_best_is_what_was_chosen() {
    seeds("explained", |rng| {
        let (made, ask) = (any_fleet(rng), any_ask(rng));
        let lost = |engine: EngineId| made.engines[engine.index()].device_lost(made.now);
        for kind in RANKS_ONCE.into_iter().chain([PolicyKind::Score]) {
            let Some(plan) = fresh(kind).place(&made.explaining(), &ask) else { continue };
            let chosen = engine_of(plan);
            let candidates = made.explained();
            let of = |engine| candidates.iter().find(|c| c.engine == engine).unwrap_or_else(|| panic!("{}", kind.name()));
            // An engine that has its device comes before one that has lost it, whatever they score; only round robin makes no difference.
            let eligible = candidates.iter().filter(|c| kind == PolicyKind::RoundRobin || lost(c.engine) == lost(chosen));
            let best = eligible.filter_map(|c| c.score).fold(f64::INFINITY, f64::min);
            assert_eq!(of(chosen).score.unwrap_or(f64::INFINITY), best, "{}", kind.name());
        }
    });
}

/// By engine: what the policy ranks it by.
fn ranks(made: &Made, kind: PolicyKind, ask: &crate::placement::Ask) -> Vec<Option<f64>> {
    fresh(kind).place(&made.explaining(), ask);
    let candidates = made.explained();
    let of = |engine: &EngineState| candidates.iter().find(|c| c.engine == engine.id).and_then(|c| c.score);
    made.engines.iter().map(of).collect()
}

#[test]
fn an_engine_is_judged_alike_wherever_it_stands() {
    seeds("reordered", |rng| {
        let (mut made, ask) = (any_fleet(rng), any_ask(rng));
        // Which engine stands for a pool depends on the order.
        made.engines.iter_mut().for_each(|engine| engine.role = Role::Shared);
        let mut order: Vec<usize> = (0..made.engines.len()).collect();
        order.shuffle(rng);
        let other = made.reordered(&order);
        for kind in [PolicyKind::LeastLoad, PolicyKind::CacheAware, PolicyKind::Score, PolicyKind::PredictedLatency] {
            let (here, there) = (ranks(&made, kind, &ask), ranks(&other, kind, &ask));
            for (place, &old) in order.iter().enumerate() {
                let (a, b) = (here[old], there[place]);
                // Sums are rounded in the order of the fleet.
                let alike = a == b || a.zip(b).is_some_and(|(a, b)| (a - b).abs() <= 1e-9 * a.abs().max(1.0));
                assert!(alike, "{}: {a:?} at {old}, {b:?} at {place}", kind.name());
            }
        }
    });
}

#[test]
fn every_term_is_between_zero_and_one() {
    seeds("terms", |rng| {
        let (made, ask) = (any_fleet(rng), any_ask(rng));
        let mut scorer = Scorer::new(&ScoreSettings { cost: 1.0, ..ScoreSettings::default() });
        let (to, from) = (Some(EngineId(0)), EngineId(0));
        for stage in [Stage::Whole, Stage::Prefill { to }, Stage::Prefill { to: None }, Stage::Decode { from }] {
            let mut said = Explanation::default();
            let costs = scorer.costs(&made.view(), &ask, stage, |_| true, &mut said).to_vec();
            for engine in &made.engines {
                assert_eq!(costs[engine.id.index()].is_finite(), engine.alive, "{stage:?}");
            }
            for candidate in said.take() {
                let sound = candidate.terms.values().all(|term| (0.0..=1.0).contains(term));
                assert!(sound && candidate.terms.len() >= 7, "{stage:?}: {candidate:?}");
            }
        }
    });
}
