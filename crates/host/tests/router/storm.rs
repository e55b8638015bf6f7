//! Random storms: arrivals, tokens, cancellations, copies that fail, deaths, links that break, drains, moves in the middle of decoding,
//! words that come late or twice, all in any order. Whatever
//! happens, every request ends once, with its own tokens in order; no block stays held; the books are at zero.

use rand::Rng as _;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};

use dualpool_router::{
    AdmissionSettings, AutoSettings, EarlyRejection, Event, MigrationSettings, PrefixTracking, RoleSettings, RouterSettings,
    WindowKind,
};
use dualpool_types::{
    Arrangement, EngineId, EngineStats, FinishReason, LegId, Micros, Objectives, PolicyKind, Priority, Rng, Tuning, seeded,
};

use super::script::{A, B, Stage, prompt, split};

const REQUESTS: u64 = 40;
const STEPS: usize = 600;
const SEEDS: u64 = 150;

fn arrangement(policy: PolicyKind) -> Arrangement {
    if policy.needs_pools() {
        split(policy, &[A, B], &[EngineId(2), EngineId(3)])
    } else {
        Arrangement::shared("test", policy, 4, Tuning::default())
    }
}

/// The mover's words that are under way: they may come after the leg's first token.
type Late = Vec<(LegId, bool)>;

fn copy_ends(stage: &mut Stage, leg: LegId, late: &mut Late, rng: &mut Rng) {
    let script = &mut stage.host.backend;
    let Some(live) = script.live.get_mut(&leg) else { return };
    let Some(source) = live.waits else { return };
    let linked = !script.cut.contains(&live.engine);
    let ok = linked && script.held.contains(&(source.engine, source.leg)) && rng.random_bool(0.8);
    if rng.random_bool(0.5) {
        stage.moved(leg, ok);
        return;
    }
    live.waits = None;
    if ok {
        stage.held.remove(&(source.engine, source.leg));
    }
    late.push((leg, ok));
}

fn leg_works(stage: &mut Stage, leg: LegId, rng: &mut Rng) {
    let live = &stage.live[&leg];
    if (live.aborted && rng.random_bool(0.7)) || rng.random_bool(0.005) {
        stage.end(leg, &[], &FinishReason::Aborted);
    } else if live.waits.is_some() {
        // It waits for its KV.
    } else if rng.random_bool(0.01) {
        stage.end(leg, &[], &FinishReason::Error("scripted".to_owned()));
    } else {
        stage.give(leg, rng.random_range(1..=3));
    }
}

/// Whatever an engine may say of itself, in no order.
fn stats(rng: &mut Rng) -> EngineStats {
    EngineStats {
        waiting: rng.random_range(0..40),
        running: rng.random_range(0..40),
        kv_usage: *[0.0, 0.5, 1.0, 7.0, -1.0, f32::NAN].choose(rng).unwrap_or(&0.0),
        prefix_queries: rng.random_range(0..5_000),
        prefix_hits: rng.random_range(0..5_000),
        prompt_tokens_computed: rng.random_range(0..5_000),
        output_tokens: rng.random_range(0..500),
        steps: rng.random_range(0..20),
    }
}

/// Every second storm comes upon a gate.
fn settings(seed: u64) -> RouterSettings {
    if seed.is_multiple_of(2) {
        return RouterSettings { max_in_flight: 24, ..RouterSettings::default() };
    }
    let reject = [EarlyRejection::Off, EarlyRejection::Naive, EarlyRejection::Predictive][seed as usize % 3];
    let admission = AdmissionSettings {
        queue_max: 3,
        patience_ms: [0, 20, 60],
        window: WindowKind::Aimd,
        window_tokens_min: 100,
        window_tokens_max: 2_000,
        reject,
        ..AdmissionSettings::default()
    };
    RouterSettings { max_in_flight: 6, admission, ..RouterSettings::default() }
}

/// Every other storm moves whatever may be moved, as often as it may.
fn restless(seed: u64) -> MigrationSettings {
    MigrationSettings {
        enabled: seed.is_multiple_of(2),
        requests_max: 100,
        tokens_max: 1_000_000,
        kv_share_max: 1.0,
        itl_share_from: 0.01,
        sustained_ms: 0,
        per_request_max: 100,
        cool_down_ms: 0,
        contention: 0.0,
        ..MigrationSettings::default()
    }
}

/// `changes`: the arrangement and the roles change all the while.
fn storm(policy: PolicyKind, seed: u64, changes: bool) {
    let rng = &mut seeded(seed, "storm");
    let mut settings = settings(seed);
    if seed % 4 >= 2 {
        settings.prefix.track = PrefixTracking::Always;
    }
    settings.migration = restless(seed / 2);
    settings.roles = RoleSettings { enabled: changes, hold_ms: 5, cool_down_ms: 10, smooth_ms: 1, margin: 0.0 };
    settings.auto = AutoSettings { period_ms: 1, hold: 1, cool_down_ms: 0, margin: 0.0, ..AutoSettings::default() };
    let mut stage = Stage::with(4, &arrangement(policy), &settings);
    let (mut arrived, mut late) = (0, Late::new());
    for _ in 0..STEPS {
        let leg = stage.live.keys().copied().choose(rng);
        // What no engine can have cached is said, too.
        stage.cached_tokens = *[None, Some(0), Some(64), Some(5000)].choose(rng).unwrap_or(&None);
        match rng.random_range(0..100) {
            0..15 if arrived < REQUESTS => {
                let prompt_tokens = *[1, 64, 300, 1000].choose(rng).unwrap_or(&64);
                let max_tokens = rng.random_range(1..12);
                let priority = *Priority::ALL.choose(rng).unwrap_or(&Priority::Normal);
                let objectives = Objectives { ttft_us_max: Micros(3_000_000), itl_us_max: Micros(200_000) };
                // Few texts, so that some are in a cache.
                let text = prompt(arrived % 5, prompt_tokens);
                stage.arrive_saying(priority, arrived, text, max_tokens, objectives);
                let queued = stage.router().admission().queued;
                assert!(queued.iter().all(|&queued| queued <= settings.admission.queue_max), "{queued:?} wait");
                arrived += 1;
            }
            15..19 => {
                stage.cancel(rng.random_range(0..REQUESTS));
            }
            19..20 if rng.random_bool(0.3) => {
                let engine = EngineId(rng.random_range(0..4));
                if !stage.dead.contains(&engine) {
                    stage.die(engine);
                }
            }
            20..24 => {
                // An engine repeats an output, or sends it late.
                if let Some(&leg) = stage.sent.choose(rng)
                    && !stage.live.contains_key(&leg)
                {
                    stage.feed(Event::Output {
                        leg,
                        tokens: &[7],
                        cached_tokens: None,
                        finish: Some((&FinishReason::Length, None)),
                    });
                }
            }
            24..25 if rng.random_bool(0.5) => drop(stage.feed(Event::Tick)),
            24..25 if rng.random_bool(0.1) => stage.cut(EngineId(rng.random_range(0..4))),
            24..25 => {
                let engine = EngineId(rng.random_range(0..4));
                stage.feed(if rng.random_bool(0.5) { Event::Drain { engine } } else { Event::Undrain { engine } });
            }
            58..68 => drop(stage.wait(50)),
            30..32 if changes => {
                let policy = *PolicyKind::ALL.choose(rng).unwrap_or(&PolicyKind::LeastLoad);
                stage.rearrange(&arrangement(policy));
            }
            32..36 if changes => {
                stage.feed(Event::Tick);
            }
            25..30 if !late.is_empty() => {
                let (leg, ok) = late.swap_remove(rng.random_range(0..late.len()));
                stage.moved(leg, ok);
            }
            30..50 => leg.into_iter().for_each(|leg| copy_ends(&mut stage, leg, &mut late, rng)),
            50..58 => {
                let stats = stats(rng);
                stage.stats(EngineId(rng.random_range(0..4)), stats);
            }
            _ => leg.into_iter().for_each(|leg| leg_works(&mut stage, leg, rng)),
        }
    }
    // The storm is over: what is still under way comes to its end.
    while let Some(&leg) = stage.live.keys().next() {
        copy_ends(&mut stage, leg, &mut late, rng);
        leg_works(&mut stage, leg, rng);
    }
    for (leg, ok) in late {
        stage.moved(leg, ok);
    }
    stage.check_over();
}

#[test]
fn storms() {
    for policy in PolicyKind::ALL {
        for seed in 0..SEEDS {
            for changes in [false, true] {
                let run = std::panic::catch_unwind(|| storm(policy, seed, changes));
                assert!(run.is_ok(), "{} fails with seed {seed}, changes {changes}; the panic above says how", policy.name());
            }
        }
    }
}
