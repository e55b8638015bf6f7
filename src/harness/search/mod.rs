//! A small search for the arms that are to be tuned: `shared_tuned` (the strongest baseline), `dual_pool` (tuned with equal care)
//! and `auto` (the best of everything). Each trial serves a short workload at the user's load and objectives, on seeds that are not
//! measured later; all trials of a round serve the same requests.
//!
//! Successive halving: a first round gives every candidate a short trial, a second one gives the leaders of each arm a longer one,
//! and the score is over both. The whole keeps within a budget of time.

mod candidates;
mod score;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Progress;
use super::drive::{DriveError, Driver, Pace};
use crate::report::SearchTrial;
use crate::router::{Arrangement, PolicyKind};
use crate::telemetry::RequestRecord;
use crate::workload::{WorkItem, Workload};

pub use candidates::candidates;
pub use score::Score;

/// Shares of the time budget, round by round.
pub(super) const ROUNDS: [f64; 2] = [0.6, 0.4];

/// Candidates that each arm sends to the next round.
const LEADERS: usize = 2;

/// Time between the last arrival of a trial and its end, about: what a trial costs beyond its arrivals.
const DRAIN: Duration = Duration::from_millis(1500);

/// A trial has at least this share of a repetition's requests, however short the budget: with fewer it says nothing.
const SCALE_MIN: f64 = 0.12;

/// An arm that the search finds an arrangement for.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    pub arm: &'static str,
    accepts: fn(PolicyKind) -> bool,
}

pub const PURPOSES: [Purpose; 3] = [
    Purpose {
        arm: "shared_tuned",
        accepts: |p| matches!(p, PolicyKind::SharedRoundRobin | PolicyKind::SharedLeastLoad | PolicyKind::SharedBalanced),
    },
    Purpose { arm: "dual_pool", accepts: |p| p == PolicyKind::DualPool },
    Purpose { arm: "auto", accepts: |_| true },
];

/// What the search saw and what it chose.
#[derive(Debug, Default)]
pub struct Found {
    pub trials: Vec<SearchTrial>,
    /// By the name of the arm.
    pub arrangements: BTreeMap<String, Arrangement>,
}

/// A candidate with all that its trials recorded.
struct Tried {
    arrangement: Arrangement,
    requests: Vec<RequestRecord>,
}

impl Tried {
    fn score(&self) -> Score {
        Score::of(&self.requests)
    }
}

/// The workload of the trials.
pub(super) struct Trials<'a> {
    pub workload: &'a Workload,
    pub vocab_size: u32,
    /// Requests offered per second; none when they arrive all upfront.
    pub rate: Option<f64>,
    /// Requests per second that a trial is going to serve, about.
    pub rate_expected: f64,
    pub seeds: &'a [u64],
    pub budget: Duration,
}

pub(super) async fn search(
    driver: &Driver<'_>,
    candidates: Vec<Arrangement>,
    purposes: &[Purpose],
    trials: &Trials<'_>,
    progress: &dyn Progress,
) -> Result<Found, DriveError> {
    let wanted = |a: &Arrangement| purposes.iter().any(|p| (p.accepts)(a.policy));
    let mut field: Vec<Tried> =
        candidates.into_iter().filter(wanted).map(|arrangement| Tried { arrangement, requests: Vec::new() }).collect();
    let mut running: Vec<usize> = (0..field.len()).collect();
    let begun = Instant::now();
    let mut share = 0.0;
    for (round, (round_share, &seed)) in ROUNDS.iter().zip(trials.seeds).enumerate() {
        share += round_share;
        let items = trials.items(*round_share, running.len(), seed);
        for &i in &running {
            let spent = begun.elapsed() >= trials.budget.mul_f64(share);
            if spent && (round > 0 || covered(&field, purposes)) {
                progress.note(&format!("search: no time left for `{}`", field[i].arrangement.name));
                continue;
            }
            progress.step(&format!("{} (round {})", field[i].arrangement.name, round + 1));
            let run = driver.run(&field[i].arrangement, round as u32, &items, Pace::OpenLoop).await?;
            field[i].requests.extend(run.recording.requests);
        }
        running = leaders(&field, purposes);
    }
    field.retain(|t| !t.requests.is_empty());
    Ok(choose(&field, purposes))
}

impl Trials<'_> {
    /// A workload that one of `trials` trials can serve in its part of the round.
    fn items(&self, round_share: f64, trials: usize, seed: u64) -> Vec<WorkItem> {
        let time = self.budget.mul_f64(round_share / trials.max(1) as f64).saturating_sub(DRAIN);
        let whole = self.workload.requests() as f64 / self.rate_expected;
        let scale = (time.as_secs_f64() / whole).clamp(SCALE_MIN, 1.0);
        self.workload.scaled(scale).generate(self.vocab_size, seed, self.rate)
    }
}

/// Whether every purpose has a candidate that was tried.
fn covered(field: &[Tried], purposes: &[Purpose]) -> bool {
    purposes.iter().all(|p| field.iter().any(|t| (p.accepts)(t.arrangement.policy) && !t.requests.is_empty()))
}

/// The candidates that were tried and that this purpose accepts, best first. Equal scores keep the order of the field.
fn ranked(field: &[Tried], purpose: Purpose) -> Vec<usize> {
    let mut ranked: Vec<usize> =
        (0..field.len()).filter(|&i| (purpose.accepts)(field[i].arrangement.policy) && !field[i].requests.is_empty()).collect();
    ranked.sort_by(|&a, &b| field[b].score().score.total_cmp(&field[a].score().score));
    ranked
}

/// Those that go on to the next round. A purpose with one candidate has nothing left to find out.
fn leaders(field: &[Tried], purposes: &[Purpose]) -> Vec<usize> {
    let mut leaders: Vec<usize> = purposes
        .iter()
        .map(|&p| ranked(field, p))
        .filter(|ranked| ranked.len() > 1)
        .flat_map(|ranked| ranked.into_iter().take(LEADERS))
        .collect();
    leaders.sort_unstable();
    leaders.dedup();
    leaders
}

fn choose(field: &[Tried], purposes: &[Purpose]) -> Found {
    let mut chosen_for: Vec<Vec<&str>> = vec![Vec::new(); field.len()];
    let mut arrangements = BTreeMap::new();
    for &purpose in purposes {
        // One that was only in the first round does not outrank one that stood a longer trial, however lucky its short one was:
        // the leaders are ahead of it in that round, and keep their rank among themselves.
        let Some(best) = finalists(field, purpose).first().copied() else { continue };
        chosen_for[best].push(purpose.arm);
        arrangements.insert(purpose.arm.to_string(), field[best].arrangement.clone());
    }
    let trials = field
        .iter()
        .zip(chosen_for)
        .map(|(tried, arms)| {
            let Score { goodput_share, score } = tried.score();
            let chosen_for = (!arms.is_empty()).then(|| arms.join(", "));
            SearchTrial { arrangement: tried.arrangement.clone(), goodput_share, score, chosen_for }
        })
        .collect();
    Found { trials, arrangements }
}

/// The ranked candidates of a purpose that have the longest record.
fn finalists(field: &[Tried], purpose: Purpose) -> Vec<usize> {
    let mut ranked = ranked(field, purpose);
    let longest = ranked.iter().map(|&i| field[i].requests.len()).max().unwrap_or(0);
    ranked.retain(|&i| field[i].requests.len() == longest);
    ranked
}

#[cfg(test)]
mod tests {
    use super::candidates::tests::{engine, pools};
    use super::*;
    use crate::config::WorkloadSettings;
    use crate::harness::stats::synthetic;

    /// A field in which each candidate's times are stretched by the given factor.
    fn field(stretches: &[f64], requests: &[u32]) -> Vec<Tried> {
        candidates(&pools(), &engine(2048), 64, 240)
            .into_iter()
            .zip(stretches.iter().zip(requests))
            .map(|(arrangement, (&stretch, &n))| Tried { arrangement, requests: synthetic::arm("trial", 1, n, stretch) })
            .collect()
    }

    #[test]
    fn each_purpose_gets_the_best_it_accepts() {
        // In order: balanced, dual pool, least load, dual pool (tight).
        let found = choose(&field(&[0.3, 0.2, 0.4, 0.1], &[20; 4]), &PURPOSES);
        assert_eq!(found.arrangements["shared_tuned"].name, "shared_balanced 224/64");
        assert_eq!(found.arrangements["dual_pool"].name, "dual_pool prefill 256/0 decode 240/64");
        assert_eq!(found.arrangements["auto"].name, "dual_pool prefill 256/0 decode 240/64");
        assert_eq!(found.trials.len(), 4);
        assert_eq!(found.trials[3].chosen_for.as_deref(), Some("dual_pool, auto"));
        assert_eq!(found.trials[2].chosen_for, None);
    }

    #[test]
    fn every_purpose_sends_its_two_best_on() {
        assert_eq!(leaders(&field(&[0.3, 0.2, 0.4, 0.1, 0.5], &[20; 5]), &PURPOSES), [0, 1, 2, 3]);
        // Only one dual pool in the field: it is going to be chosen for that arm anyway.
        assert_eq!(leaders(&field(&[0.3, 0.9, 0.4], &[20; 3]), &PURPOSES), [0, 2]);
    }

    #[test]
    fn a_lucky_short_trial_does_not_beat_those_that_went_on() {
        let found = choose(&field(&[0.1, 0.2, 0.3, 0.25], &[20, 60, 60, 60]), &PURPOSES);
        assert_eq!(found.arrangements["auto"].name, "dual_pool prefill as started decode 224/64");
        assert_eq!(found.arrangements["shared_tuned"].name, "shared_least_load as started");
    }

    #[test]
    fn nothing_tried_finds_nothing() {
        let found = choose(&field(&[0.1, 0.1], &[0, 0]), &PURPOSES);
        assert!(found.arrangements.is_empty());
    }

    #[test]
    fn trials_fill_their_part_of_the_budget() {
        let workload = Workload::new(&WorkloadSettings::default());
        let trials = |budget| Trials {
            workload: &workload,
            vocab_size: 1000,
            rate: Some(9.0),
            rate_expected: 9.0,
            seeds: &[],
            budget: Duration::from_secs(budget),
        };
        // 108 requests take 12 s. A tenth of 75 s is 7.5 s, of which 6 are arrivals: half the requests.
        assert_eq!(trials(75).items(1.0, 10, 1).len(), 54);
        assert_eq!(trials(7500).items(1.0, 10, 1).len(), 108);
        assert_eq!(trials(1).items(1.0, 10, 1).len(), 13);
    }
}
