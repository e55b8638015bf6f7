//! A small search for the arms that are to be tuned: `shared_tuned` (the strongest baseline), `dual_pool` (tuned with equal care)
//! and `best_found` (the best of everything). A simulation shortlists a grid of arrangements, and trials on the engines decide. Each trial
//! serves a short workload at the user's load and objectives, on seeds that are not measured later; all trials of a round serve the
//! same requests.
//!
//! Successive halving: a first round gives every candidate a short trial, a second one gives the leaders of each arm a longer one,
//! and the score is over both, with the forecast as the voice of the requests that no trial has
//! time for. The whole keeps within a budget of time, and candidates are ranked on equal footing: each by the same requests. So a trial
//! never gets too short to say something, but fewer candidates are tried; and a second round that time cuts short counts for no candidate.

mod candidates;
mod forecast;
mod score;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dualpool_types::artifact::SearchTrial;
use dualpool_types::records::RequestRecord;
use dualpool_types::{Arm, Arrangement};
use dualpool_workload::{WorkItem, Workload};

use super::drive::{ArmRunner, DriveError, Work};

pub use candidates::candidates;
pub use forecast::{FORECAST_REPETITIONS, Forecast, forecast, shortlist};
pub use score::Score;

/// Shares of the time budget, round by round; with little time, all of it goes into one.
pub(super) const ROUNDS: [f64; 2] = [0.6, 0.4];
pub(super) const ONE_ROUND: [f64; 1] = [1.0];

/// Candidates that each arm sends to the next round.
const LEADERS: usize = 2;

/// Time between the last arrival of a trial and its end, about: what a trial costs beyond its arrivals.
const DRAIN: Duration = Duration::from_millis(1500);

/// A forecast weighs as much as this many requests of trials. Trials know the engines and see few requests, of a burst perhaps a single
/// clump; the forecast sees hundreds and knows the engines by five figures. Each keeps the other one's luck from deciding alone.
const FORECAST_REQUESTS: f64 = 50.0;

/// A trial has at least this share of a repetition's requests: with fewer it says nothing.
const SCALE_MIN: f64 = 0.25;

/// What the search saw and what it chose.
#[derive(Debug, Default)]
pub struct SearchResult {
    pub candidates: Vec<SearchTrial>,
    pub arrangements: BTreeMap<Arm, Arrangement>,
}

/// A candidate with all that its trials recorded.
struct Candidate {
    arrangement: Arrangement,
    /// Its score in simulation.
    forecast: f64,
    /// Round by round.
    rounds: Vec<Vec<RequestRecord>>,
}

impl Candidate {
    fn score(&self) -> Score {
        Score::of(&self.rounds.concat())
    }

    /// What it is ranked by: its score in trials and in simulation, each by what it has seen.
    fn rank(&self) -> f64 {
        let served = self.rounds.iter().map(Vec::len).sum::<usize>() as f64;
        (served * self.score().score + FORECAST_REQUESTS * self.forecast) / (served + FORECAST_REQUESTS)
    }

    fn trial(&self, chosen_for: Option<String>) -> SearchTrial {
        let score = (!self.rounds.is_empty()).then(|| self.score());
        SearchTrial {
            arrangement: self.arrangement.clone(),
            forecast: self.forecast,
            requests: self.rounds.iter().map(|requests| requests.len() as u32).sum(),
            goodput_share: score.map(|score| score.goodput_share),
            score: score.map(|score| score.score),
            chosen_for,
        }
    }
}

/// The workload of the trials.
pub(super) struct TrialSetup<'a> {
    pub workload: &'a Workload,
    pub vocab_size: u32,
    /// Requests offered per second; none when they arrive all upfront.
    pub rate: Option<f64>,
    /// Requests per second that a trial is going to serve, about.
    pub rate_expected: f64,
    /// Shares of the budget, and one seed for each.
    pub rounds: &'a [f64],
    pub seeds: &'a [u64],
    pub budget: Duration,
}

pub(super) async fn search(
    runner: &ArmRunner<'_>,
    forecasts: Vec<Forecast>,
    arms: &[Arm],
    trials: &TrialSetup<'_>,
) -> Result<SearchResult, DriveError> {
    let short = shortlist(&forecasts, arms);
    let mut field: Vec<Candidate> = Vec::new();
    let mut passed_over: Vec<SearchTrial> = Vec::new();
    for (i, Forecast { arrangement, score }) in forecasts.into_iter().enumerate() {
        let tried = Candidate { arrangement, forecast: score.score, rounds: Vec::new() };
        if short.contains(&i) { field.push(tried) } else { passed_over.push(tried.trial(None)) }
    }
    let mut running: Vec<usize> = (0..field.len()).collect();
    let begun = Instant::now();
    let mut share = 0.0;
    for (round, (round_share, &seed)) in trials.rounds.iter().zip(trials.seeds).enumerate() {
        share += round_share;
        let fitting = trials.fitting(*round_share);
        if round > 0 && (running.is_empty() || running.len() > fitting) {
            break;
        }
        let items = trials.items(*round_share, running.len().min(fitting.max(1)), seed);
        for &i in &running {
            let spent = begun.elapsed() >= trials.budget.mul_f64(share);
            if spent && (round > 0 || covered(&field, arms)) {
                break;
            }
            let what = format!("{} (round {})", field[i].arrangement.name, round + 1);
            let recording = runner.run(&what, &field[i].arrangement, round as u32, Work::open_loop(&items)).await?;
            field[i].rounds.push(recording.requests);
        }
        if round > 0 && running.iter().any(|&i| field[i].rounds.len() <= round) {
            field.iter_mut().for_each(|tried| tried.rounds.truncate(round));
            break;
        }
        running = leaders(&field, arms);
    }
    untried(runner, &field);
    let mut found = choose(&field, arms);
    found.candidates.extend(passed_over);
    Ok(found)
}

/// Says what there was no time for.
fn untried(runner: &ArmRunner<'_>, field: &[Candidate]) {
    let names: Vec<&str> = field.iter().filter(|t| t.rounds.is_empty()).map(|t| t.arrangement.name.as_str()).collect();
    if !names.is_empty() {
        runner.note(format!(
            "The search had time for {} of {} candidates; not tried: {}. More time: --budget, --search-budget-s.",
            field.len() - names.len(),
            field.len(),
            names.join(", ")
        ));
    }
}

impl TrialSetup<'_> {
    /// A workload that one of `trials` trials can serve in its part of the round.
    fn items(&self, round_share: f64, trials: usize, seed: u64) -> Vec<WorkItem> {
        let time = self.budget.mul_f64(round_share / trials.max(1) as f64).saturating_sub(DRAIN);
        let scale = (time.as_secs_f64() / self.whole_s()).clamp(SCALE_MIN, 1.0);
        self.workload.scaled(scale).generate(self.vocab_size, seed, self.rate)
    }

    /// Trials of the smallest size that go into a round.
    fn fitting(&self, round_share: f64) -> usize {
        let smallest = self.whole_s() * SCALE_MIN + DRAIN.as_secs_f64();
        (self.budget.as_secs_f64() * round_share / smallest) as usize
    }

    /// Seconds that a trial with a whole repetition's requests would take.
    fn whole_s(&self) -> f64 {
        self.workload.requests() as f64 / self.rate_expected
    }
}

/// Whether every arm has a candidate that was tried.
fn covered(field: &[Candidate], arms: &[Arm]) -> bool {
    arms.iter().all(|arm| field.iter().any(|t| arm.takes(t.arrangement.policy) && !t.rounds.is_empty()))
}

/// The candidates that were tried and that this arm takes, best first. Equals keep the order of the field.
fn ranked(field: &[Candidate], arm: Arm) -> Vec<usize> {
    let mut ranked: Vec<usize> =
        (0..field.len()).filter(|&i| arm.takes(field[i].arrangement.policy) && !field[i].rounds.is_empty()).collect();
    ranked.sort_by(|&a, &b| field[b].rank().total_cmp(&field[a].rank()));
    ranked
}

/// Those that go on to the next round. An arm with one candidate has nothing left to find out.
fn leaders(field: &[Candidate], arms: &[Arm]) -> Vec<usize> {
    let mut leaders: Vec<usize> = arms
        .iter()
        .map(|&arm| ranked(field, arm))
        .filter(|ranked| ranked.len() > 1)
        .flat_map(|ranked| ranked.into_iter().take(LEADERS))
        .collect();
    leaders.sort_unstable();
    leaders.dedup();
    leaders
}

fn choose(field: &[Candidate], arms: &[Arm]) -> SearchResult {
    let mut chosen_for: Vec<Vec<&str>> = vec![Vec::new(); field.len()];
    let mut arrangements = BTreeMap::new();
    for &arm in arms {
        // One that was only in the first round does not outrank one that stood a longer trial, however lucky its short one was:
        // the leaders are ahead of it in that round, and keep their rank among themselves.
        let Some(best) = finalists(field, arm).first().copied() else { continue };
        chosen_for[best].push(arm.name());
        arrangements.insert(arm, field[best].arrangement.clone());
    }
    let candidates =
        field.iter().zip(chosen_for).map(|(tried, arms)| tried.trial((!arms.is_empty()).then(|| arms.join(", ")))).collect();
    SearchResult { candidates, arrangements }
}

/// The ranked candidates of a arm that stood the most rounds: all of them served the same requests.
fn finalists(field: &[Candidate], arm: Arm) -> Vec<usize> {
    let mut ranked = ranked(field, arm);
    let most = ranked.iter().map(|&i| field[i].rounds.len()).max().unwrap_or(0);
    ranked.retain(|&i| field[i].rounds.len() == most);
    ranked
}

#[cfg(test)]
mod tests {
    use super::candidates::tests::{engine, pools};
    use super::*;
    use crate::stats::synthetic;
    use dualpool_workload::WorkloadSettings;

    fn arms() -> Vec<Arm> {
        Arm::searched_for().collect()
    }

    /// A field in which each candidate's times are stretched by the given factor, and which stood so many rounds of 20 requests.
    fn field(stretches: &[f64], rounds: &[usize]) -> Vec<Candidate> {
        candidates(&pools(), &engine(2048), 64, 240)
            .into_iter()
            .zip(stretches.iter().zip(rounds))
            .map(|(arrangement, (&stretch, &rounds))| Candidate {
                arrangement,
                forecast: 0.0,
                rounds: vec![synthetic::arm("trial", 1, 20, stretch); rounds],
            })
            .collect()
    }

    #[test]
    fn each_purpose_gets_the_best_it_accepts() {
        // In order: balanced, dual pool, least load, dual pool (tight).
        let found = choose(&field(&[0.3, 0.2, 0.4, 0.1], &[1; 4]), &arms());
        assert_eq!(found.arrangements[&Arm::SharedTuned].name, "balanced 224/64");
        assert_eq!(found.arrangements[&Arm::DualPool].name, "dual_pool prefill 256/0 decode 240/64");
        assert_eq!(found.arrangements[&Arm::BestFound].name, "dual_pool prefill 256/0 decode 240/64");
        assert_eq!(found.candidates.len(), 4);
        assert_eq!(found.candidates[3].chosen_for.as_deref(), Some("dual_pool, best_found"));
        assert_eq!((found.candidates[2].chosen_for.as_deref(), found.candidates[2].requests), (None, 20));
    }

    #[test]
    fn every_purpose_sends_its_two_best_on() {
        assert_eq!(leaders(&field(&[0.3, 0.2, 0.4, 0.1, 0.5], &[1; 5]), &arms()), [0, 1, 2, 3]);
        // Only one dual pool in the field: it is going to be chosen for that arm anyway.
        assert_eq!(leaders(&field(&[0.3, 0.9, 0.4], &[1; 3]), &arms()), [0, 2]);
    }

    #[test]
    fn a_lucky_short_trial_does_not_beat_those_that_went_on() {
        let found = choose(&field(&[0.1, 0.2, 0.3, 0.25], &[1, 2, 2, 2]), &arms());
        assert_eq!(found.arrangements[&Arm::BestFound].name, "dual_pool prefill as started decode 224/64");
        assert_eq!(found.arrangements[&Arm::SharedTuned].name, "least_load as started");
    }

    #[test]
    fn a_forecast_outweighs_a_small_difference_in_a_short_trial_and_not_a_large_one() {
        // The first two are shared, and the first one's trial went better.
        let chosen = |stretches: &[f64], forecasts: [f64; 3]| {
            let mut field = field(stretches, &[1; 3]);
            field.iter_mut().zip(forecasts).for_each(|(tried, forecast)| tried.forecast = forecast);
            choose(&field, &arms()).arrangements[&Arm::SharedTuned].name.clone()
        };
        let (balanced, least_load) = ("balanced 224/64", "least_load as started");
        assert_eq!(chosen(&[0.1, 0.1, 0.2], [0.9, 0.9, 0.9]), balanced);
        assert_eq!(chosen(&[0.1, 0.1, 0.2], [0.7, 0.9, 0.9]), least_load);
        assert_eq!(chosen(&[0.1, 0.1, 50.0], [0.7, 0.9, 0.9]), balanced);
    }

    #[test]
    fn nothing_tried_finds_nothing() {
        let found = choose(&field(&[0.1, 0.1], &[0, 0]), &arms());
        assert!(found.arrangements.is_empty());
        assert!(found.candidates.iter().all(|trial| trial.requests == 0 && trial.score.is_none()));
    }

    #[test]
    fn trials_fill_their_part_of_the_budget() {
        let workload = Workload::new(&WorkloadSettings::default());
        let trials = |budget| TrialSetup {
            workload: &workload,
            vocab_size: 1000,
            rate: Some(9.0),
            rate_expected: 9.0,
            rounds: &ROUNDS,
            seeds: &[],
            budget: Duration::from_secs(budget),
        };
        // 108 requests take 12 s. A tenth of 75 s is 7.5 s, of which 6 are arrivals: half the requests.
        assert_eq!(trials(75).items(1.0, 10, 1).len(), 54);
        assert_eq!(trials(7500).items(1.0, 10, 1).len(), 108);
        assert_eq!(trials(1).items(1.0, 10, 1).len(), 27);
        // 27 requests take 3 s, and 1.5 s to drain: two go into 9 s, twelve into 54 s.
        assert_eq!([9, 54].map(|budget| trials(budget).fitting(1.0)), [2, 12]);
    }
}
