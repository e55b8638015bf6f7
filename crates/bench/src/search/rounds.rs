//! How much of a search fits its time: which trials a round has, in which order, and of how many requests.
//!
//! A round goes by turns: in each turn every family - what competes for one tuned arm - has a trial. So families have as many trials as each
//! other wherever time runs out.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// What the first round takes of the time, so that leaders can go on.
const FIRST_ROUND: f64 = 0.5;

/// A choice takes two.
const TURNS_MIN: usize = 2;

/// One round: its turns, and the requests of each of its trials.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Round {
    pub(super) turns: Vec<Vec<usize>>,
    pub(super) requests: u32,
}

/// The time of a search, and what a trial takes of it.
pub(super) struct Clock<'a> {
    began: Instant,
    budget: Duration,
    /// Seconds that a trial of so many requests takes, about.
    seconds: &'a (dyn Fn(u32) -> f64 + Sync),
    /// The requests that a trial may have.
    requests: RangeInclusive<u32>,
    /// Of the trials so far, what they took and what they were expected to take.
    took_s: f64,
    expected_s: f64,
}

impl<'a> Clock<'a> {
    pub(super) fn start(budget: Duration, requests: RangeInclusive<u32>, seconds: &'a (dyn Fn(u32) -> f64 + Sync)) -> Clock<'a> {
        Clock { began: Instant::now(), budget, seconds, requests, took_s: 0.0, expected_s: 0.0 }
    }

    pub(super) fn left(&self) -> Duration {
        self.budget.saturating_sub(self.began.elapsed())
    }

    /// A trial of so many requests took so long.
    pub(super) fn observe(&mut self, requests: u32, took: Duration) {
        self.took_s += took.as_secs_f64();
        self.expected_s += (self.seconds)(requests);
    }

    /// The first round of these families: every candidate once, so that a round of leaders fits behind it, or with all the time where none
    /// does. None where there is no time for a choice.
    pub(super) fn first(&self, families: &[Vec<usize>]) -> Option<Round> {
        let (turns, left_s) = (turns(families), self.left().as_secs_f64());
        let (all, choice) = (trials(&turns) as f64, trials(turns.get(..TURNS_MIN)?) as f64);
        let fewest = *self.requests.start();
        let fits = |trials: f64| trials * self.trial_s(fewest) <= left_s;
        let share = if fits(all + choice) { FIRST_ROUND } else { 1.0 };
        fits(choice).then(|| Round { requests: self.fitting(left_s * share / all).unwrap_or(fewest), turns })
    }

    /// Whether there is time for this turn of the round. A first round without all its turns is still a choice; any other one is whole.
    pub(super) fn allows(&self, round: &Round, turn: usize, is_first: bool) -> bool {
        let expected_s = round.turns[turn].len() as f64 * self.trial_s(round.requests);
        let enough = Duration::from_secs_f64(if is_first && turn >= TURNS_MIN { expected_s } else { 0.0 });
        self.left() > enough
    }

    /// Another round of these leaders: the time that is left is divided evenly over as many rounds as fit with trials like those of the round
    /// before, down to one of smaller trials. None where even that does not fit.
    pub(super) fn next(&self, leaders: &[Vec<usize>], before: u32) -> Option<Round> {
        let turns = turns(leaders);
        let (trials, left_s) = (trials(&turns), self.left().as_secs_f64());
        if trials == 0 {
            return None;
        }
        let rounds = (left_s / (trials as f64 * self.trial_s(before))).floor().max(1.0);
        self.fitting(left_s / (rounds * trials as f64)).map(|requests| Round { turns, requests })
    }

    /// The most requests of a trial that takes so long.
    fn fitting(&self, seconds: f64) -> Option<u32> {
        self.requests.clone().rev().find(|&requests| self.trial_s(requests) <= seconds)
    }

    fn trial_s(&self, requests: u32) -> f64 {
        let tempo = if self.expected_s > 0.0 { self.took_s / self.expected_s } else { 1.0 };
        (self.seconds)(requests) * tempo
    }
}

/// The first of each family, then the second of each, and so on.
fn turns(families: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let most = families.iter().map(Vec::len).max().unwrap_or(0);
    (0..most).map(|place| families.iter().filter_map(|family| family.get(place).copied()).collect()).collect()
}

fn trials(turns: &[Vec<usize>]) -> usize {
    turns.iter().map(Vec::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two families of three; ten requests take a second, and 12 to 108 make a trial.
    fn clock(budget_s: f64) -> Clock<'static> {
        Clock::start(Duration::from_secs_f64(budget_s), 12..=108, &|requests| f64::from(requests) / 10.0)
    }

    fn families() -> [Vec<usize>; 2] {
        [vec![0, 2, 4], vec![1, 3, 5]]
    }

    #[test]
    fn families_take_turns_and_have_as_many_trials_as_each_other_when_time_is_short() {
        let allowed = |budget_s| {
            let clock = clock(budget_s);
            let round = clock.first(&families())?;
            Some(
                round
                    .turns
                    .iter()
                    .enumerate()
                    .filter(|&(turn, _)| clock.allows(&round, turn, true))
                    .flat_map(|(_, t)| t.clone())
                    .collect(),
            )
        };
        assert_eq!(allowed(60.0), Some(vec![0, 1, 2, 3, 4, 5]));
        // A trial of 12 requests takes 1.2 s, four of them 4.8 s.
        assert_eq!(allowed(5.0), Some(vec![0, 1, 2, 3, 4, 5]), "as none has taken its time yet");
        assert_eq!(allowed(4.0), None, "one candidate of each is no choice");
        assert_eq!(clock(60.0).first(&[vec![0], vec![]]), None);
    }

    #[test]
    fn a_turn_that_no_longer_fits_is_left_out_for_all_families() {
        let mut clock = clock(10.0);
        let round = clock.first(&families()).unwrap();
        clock.observe(round.requests, Duration::from_secs(6));
        let allowed = |is_first| [0, 1, 2].map(|turn| clock.allows(&round, turn, is_first));
        assert_eq!((allowed(true), allowed(false)), ([true, true, false], [true; 3]));
    }

    #[test]
    fn trials_fill_their_part_of_the_budget() {
        // Half of 60.1 s for six trials: 5 s each.
        assert_eq!(clock(60.1).first(&families()).unwrap().requests, 50);
        assert_eq!(clock(6000.0).first(&families()).unwrap().requests, 108);
        // Ten trials of 12 requests do not fit into 9.1 s, so the six have all of it.
        assert_eq!(clock(9.1).first(&families()).unwrap().requests, 15);
        assert_eq!(clock(5.0).first(&families()).unwrap().requests, 12);
    }

    #[test]
    fn leaders_use_what_is_left() {
        let next = |budget_s: f64| clock(budget_s).next(&[vec![0, 2], vec![1, 3]], 50).map(|round| round.requests);
        // Four trials of 5 s fit once into 30.1 s, so each has 7.5 s; into 12.1 s they do not fit, but smaller ones do.
        assert_eq!(next(30.1), Some(75));
        assert_eq!(next(12.1), Some(30));
        assert_eq!(next(4.0), None);
        assert_eq!(clock(60.0).next(&[], 50), None);
    }

    #[test]
    fn trials_that_take_longer_than_expected_are_made_smaller() {
        let mut clock = clock(30.1);
        clock.observe(50, Duration::from_secs(10));
        assert_eq!(clock.next(&[vec![0, 2], vec![1, 3]], 20).unwrap().requests, 37);
    }
}
