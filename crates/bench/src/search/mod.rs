//! A small search for the arms that are to be tuned: `shared_tuned` (the strongest baseline), `dual_pool` (tuned with equal care)
//! and `best_found` (the best of everything). A simulation shortlists a grid of arrangements, and trials on the engines decide. Each trial
//! serves a short workload at the user's load and objectives, on seeds that are not measured later; all trials of a round serve the
//! same requests, with the same traffic before and behind them as in the measurement, and start with the same costs.
//!
//! What competes for one arm is a family. A first round gives every candidate a trial, further ones the leaders of each family, as long as
//! another fits into the budget of time. The score is over all of them, with the forecast as the voice of the requests that no trial has time
//! for, until a trial contradicts it. Candidates are ranked on equal footing: each by the same requests. So families take turns, a trial never
//! gets too short to say something, and a round that time cuts short counts for no candidate that was to be in it.

mod candidates;
mod field;
mod forecast;
mod overrule;
mod rounds;
mod score;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use dualpool_types::artifact::SearchTrial;
use dualpool_types::{Arm, Arrangement};

use super::drive::{ArmRunner, DriveError, Pace, Work};
use super::pair::seeds_without_end;
use super::run::Repetition;
use field::{Candidate, choose, each_once, leaders};
use forecast::shortlists;
use rounds::Clock;

pub use candidates::candidates;
pub(super) use forecast::{FORECAST_REPETITIONS, Forecast, forecast};
pub use score::Score;

/// What the search saw and what it chose.
#[derive(Debug, Default)]
pub(super) struct SearchResult {
    pub(super) candidates: Vec<SearchTrial>,
    pub(super) arrangements: BTreeMap<Arm, Arrangement>,
    /// Arms whose arrangement was not searched for.
    pub(super) known_points: Vec<Arm>,
}

/// What trials serve, and what time they have.
pub(super) struct TrialSetup<'a> {
    /// A trial of so many requests, by its seed.
    pub(super) make: &'a (dyn Fn(u32, u64) -> Repetition + Sync),
    /// Seconds that it takes, about.
    pub(super) seconds: &'a (dyn Fn(u32) -> f64 + Sync),
    /// The requests of a trial: from the fewest that say something to all that there are.
    pub(super) requests: RangeInclusive<u32>,
    pub(super) seed: u64,
    pub(super) budget: Duration,
}

pub(super) async fn search(
    runner: &ArmRunner<'_>,
    forecasts: Vec<Forecast>,
    arms: &[Arm],
    trials: &TrialSetup<'_>,
) -> Result<SearchResult, DriveError> {
    let families = each_once(shortlists(&forecasts, arms));
    let (mut field, rest) = divided(forecasts, &families.concat());
    // Places in the field: it has the families one after the other.
    let mut places = 0..;
    let families: Vec<Vec<usize>> = families.iter().map(|family| places.by_ref().take(family.len()).collect()).collect();
    let mut clock = Clock::start(trials.budget, trials.requests.clone(), trials.seconds);
    let mut next = clock.first(&families);
    for (number, seed) in (0..).zip(seeds_without_end(trials.seed, "search")) {
        let Some(round) = next else { break };
        let Repetition { items, counted } = (trials.make)(round.requests, seed);
        for (turn, places) in round.turns.iter().enumerate() {
            if !clock.allows(&round, turn, number == 0) {
                break;
            }
            for &place in places {
                let tried = &mut field[place];
                // Under a name of its own each trial starts with the costs that all start with, and not with what the candidate has learned.
                let name = format!("{} (trial {})", tried.arrangement.name, number + 1);
                let (arrangement, began) = (Arrangement { name, ..tried.arrangement.clone() }, Instant::now());
                let work = Work { items: &items, counted: counted.clone(), pace: Pace::OpenLoop };
                tried.rounds.push(runner.run(&arrangement.name, &arrangement, number, work).await?.requests);
                clock.observe(round.requests, began.elapsed());
            }
        }
        let stood = |place: &usize| field[*place].rounds.len() > number as usize;
        if number > 0 && !round.turns.iter().flatten().all(stood) {
            field.iter_mut().for_each(|tried| tried.rounds.truncate(number as usize));
            break;
        }
        next = clock.next(&leaders(&field, arms), round.requests);
    }
    let mut found = choose(&field, arms).or_known_points(arms);
    note(runner, &field, &found);
    found.candidates.extend(rest.iter().map(|passed_over| passed_over.trial(None)));
    Ok(found)
}

/// Those that are to be tried, in this order, and the others.
fn divided(forecasts: Vec<Forecast>, tried: &[usize]) -> (Vec<Candidate>, Vec<Candidate>) {
    let mut all: Vec<Option<Candidate>> = forecasts
        .into_iter()
        .map(|Forecast { arrangement, score }| Some(Candidate { arrangement, forecast: score, rounds: vec![] }))
        .collect();
    let field = tried.iter().filter_map(|&place| all[place].take()).collect();
    (field, all.into_iter().flatten().collect())
}

/// Says what there was no time for.
fn note(runner: &ArmRunner<'_>, field: &[Candidate], found: &SearchResult) {
    const MORE: &str = "More time: --budget, --search-budget-s.";
    let untried: Vec<&str> = field.iter().filter(|t| t.rounds.is_empty()).map(|t| t.arrangement.name.as_str()).collect();
    let tried = field.len() - untried.len();
    if tried > 0 && !untried.is_empty() {
        runner.note(format!(
            "The search had time for {tried} of {} candidates; not tried: {}. {MORE}",
            field.len(),
            untried.join(", ")
        ));
    }
    let has_choice = |arm: Arm| field.iter().filter(|tried| arm.takes(tried.arrangement.policy)).count() > 1;
    let (no_time, alone): (Vec<Arm>, Vec<Arm>) = found.known_points.iter().partition(|&&arm| has_choice(arm));
    for (known, why) in
        [(no_time, format!("there was no time to search. {MORE}")), (alone, "there is no other candidate.".to_string())]
    {
        let known: Vec<String> =
            known.iter().filter_map(|arm| Some(format!("{} as {}", arm.name(), found.arrangements.get(arm)?.name))).collect();
        if !known.is_empty() {
            runner.note(format!("Known points, and not the best of a search, run for {}: {why}", known.join(", ")));
        }
    }
}
