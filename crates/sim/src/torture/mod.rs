//! Simulations drawn at random, to see whether what must always hold does: any fleet, policy and settings, clients that come in bursts
//! and leave, and faults of every kind. A seed is one simulation, on every machine.

mod scenario;
mod settings;
mod verdict;

use thiserror::Error;

use super::{SimError, Totals};
use verdict::Verdict;

pub use scenario::Scenario;
pub use verdict::Violation;

/// A seed whose simulation did not go as it must.
#[derive(Debug, Error)]
pub enum TortureError {
    #[error(transparent)]
    Simulation(#[from] SimError),
    #[error("{} of what must hold did not: {}", .0.len(), list(.0))]
    Violated(Vec<Violation>),
}

/// Violations that are named; of more only the number is.
const NAMED_MAX: usize = 5;

fn list(violations: &[Violation]) -> String {
    violations.iter().take(NAMED_MAX).map(Violation::to_string).collect::<Vec<_>>().join("; ")
}

/// Every how many seeds a simulation is run again, to see that it is the same again.
const AGAIN_EVERY: u64 = 16;

/// Simulates what this seed draws, and looks for anything that must not be.
pub fn torture(seed: u64) -> Result<Totals, TortureError> {
    let scenario = Scenario::draw(seed);
    let (verdict, totals) = judged(&scenario)?;
    let mut violations = verdict.violations(&scenario, &totals);
    if seed.is_multiple_of(AGAIN_EVERY) {
        let (again, its_totals) = judged(&scenario)?;
        if again.records != verdict.records || its_totals != totals {
            violations.push(Violation::NotRepeatable);
        }
    }
    if violations.is_empty() { Ok(totals) } else { Err(TortureError::Violated(violations)) }
}

fn judged(scenario: &Scenario) -> Result<(Verdict, Totals), SimError> {
    let mut verdict = Verdict::default();
    let totals = scenario.simulation().journal(scenario.requests.iter().cloned(), None, &mut verdict)?;
    Ok((verdict, totals))
}

#[cfg(test)]
mod tests {
    use dualpool_host::{Entry, Fold};
    use dualpool_router::Action;
    use dualpool_types::Time;

    use super::*;

    /// Seeds of every test run. `TORTURE_SEEDS` asks for more, and `dualpool torture` is the faster way to many.
    const SEEDS: u64 = 2_000;

    #[test]
    fn whatever_goes_wrong_every_request_ends_once_with_its_own_text() {
        let seeds = std::env::var("TORTURE_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number of seeds"));
        let failure = |seed: u64| {
            let run = std::panic::catch_unwind(|| torture(seed).map_err(|error| error.to_string()));
            let why = run.unwrap_or_else(|_| Err("it panicked".to_owned())).err()?;
            Some(format!("seed {seed}: {why}\n  replay: dualpool torture --seed {seed}"))
        };
        let failures: Vec<String> = (0..seeds).filter_map(failure).collect();
        assert!(failures.is_empty(), "{} of {seeds} failed\n{}", failures.len(), failures.join("\n"));
    }

    #[test]
    fn the_seeds_have_faults_of_every_kind_and_requests_that_survive_them() {
        let scenarios: Vec<Scenario> = (0..200).map(Scenario::draw).collect();
        let many = |what: &str, is: fn(&Scenario) -> bool| {
            let count = scenarios.iter().filter(|scenario| is(scenario)).count();
            assert!(count >= 20, "{count} of 200 with {what}");
        };
        many("deaths", |s| !s.faults.engine_death.at.is_empty());
        many("slow links", |s| !s.faults.slow_link.is_empty());
        many("cut links", |s| !s.faults.cut_link.is_empty());
        many("stale telemetry", |s| s.faults.stale_telemetry.dropped > 0.0);
        many("late outputs", |s| s.faults.late_outputs_ms > 0);
        many("lost messages", |s| s.faults.lost_messages.releases > 0.0);
        many("failed copies", |s| s.faults.failed_copies > 0.0);
        many("clients that leave", |s| s.faults.clients_leave.share > 0.0);
        many("KV that moves", |s| s.arrangement.policy.moves_kv());
        let (mut moves, mut expired, mut evictions, mut cached) = (0, 0, 0, 0);
        for seed in 0..scenarios.len() as u64 {
            let totals = torture(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            expired += totals.leases_expired;
            moves += totals.engines.iter().map(|engine| engine.moves_in).sum::<u64>();
            evictions += totals.engines.iter().map(|engine| engine.evictions).sum::<u64>();
            cached += totals.engines.iter().map(|engine| engine.prompt_tokens_cached).sum::<u64>();
        }
        assert!(moves > 100 && expired > 0 && evictions > 100 && cached > 1000, "{moves} {expired} {evictions} {cached}");
    }

    /// What the router noted, by kind.
    #[derive(Default)]
    struct Notes(std::collections::BTreeMap<String, u32>);

    impl Fold for Notes {
        fn entry(&mut self, _: Time, entry: &Entry<'_>) {
            if let Entry::Action(Action::Note(note), _) = entry {
                let kind = serde_json::to_value(note).unwrap()["kind"].as_str().unwrap().to_owned();
                *self.0.entry(kind).or_default() += 1;
            }
        }
    }

    #[test]
    fn the_seeds_make_the_router_decide_things_of_every_kind() {
        let mut notes = Notes::default();
        for seed in 0..2_000 {
            let scenario = Scenario::draw(seed);
            scenario.simulation().journal(scenario.requests.iter().cloned(), None, &mut notes).unwrap();
        }
        for kind in ["admission", "placed", "migrated", "role_changed", "rearranged"] {
            assert!(notes.0.get(kind).is_some_and(|count| *count >= 5), "{kind}: {:?}", notes.0);
        }
    }
}
