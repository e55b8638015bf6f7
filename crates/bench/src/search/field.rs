//! The candidates with what their trials recorded, and which of them is best for an arm.

use std::collections::BTreeMap;

use dualpool_types::artifact::SearchTrial;
use dualpool_types::records::RequestRecord;
use dualpool_types::{Arm, Arrangement};

use super::overrule::overruled;
use super::{Score, SearchResult};

/// Candidates that each arm sends to the next round.
const LEADERS: usize = 2;

/// A forecast weighs as much as this many requests of trials. Trials know the engines and see few requests, of a burst perhaps a single
/// clump; the forecast sees hundreds and knows the engines by five figures. Each keeps the other one's luck from deciding alone.
const FORECAST_REQUESTS: f64 = 50.0;

/// A candidate with all that its trials recorded.
pub(super) struct Candidate {
    pub(super) arrangement: Arrangement,
    /// How it did in simulation.
    pub(super) forecast: Score,
    /// Round by round: all candidates that stood a round served the same requests in it.
    pub(super) rounds: Vec<Vec<RequestRecord>>,
}

impl Candidate {
    fn score(&self) -> Score {
        Score::of(&self.rounds.concat())
    }

    /// What it is ranked by: its score in trials and in simulation, each by what it has seen, as long as the trials allow the simulation.
    fn rank(&self) -> f64 {
        let served = self.rounds.iter().map(Vec::len).sum::<usize>() as f64;
        let weight = if overruled(self.forecast.goodput_share, &self.rounds).is_some() { 0.0 } else { FORECAST_REQUESTS };
        (served * self.score().score + weight * self.forecast.score) / (served + weight)
    }

    pub(super) fn trial(&self, chosen_for: Option<String>) -> SearchTrial {
        let score = (!self.rounds.is_empty()).then(|| self.score());
        SearchTrial {
            arrangement: self.arrangement.clone(),
            forecast: self.forecast.score,
            forecast_overruled: overruled(self.forecast.goodput_share, &self.rounds),
            requests: self.rounds.iter().map(|requests| requests.len() as u32).sum(),
            goodput_share: score.map(|score| score.goodput_share),
            score: score.map(|score| score.score),
            chosen_for,
        }
    }
}

/// The candidates that were tried and that this arm takes, best first. Equals keep the order of the field.
fn ranked(field: &[Candidate], arm: Arm) -> Vec<usize> {
    let tried = (0..field.len()).filter(|&i| arm.takes(field[i].arrangement.policy) && !field[i].rounds.is_empty());
    let mut ranked: Vec<(usize, f64)> = tried.map(|i| (i, field[i].rank())).collect();
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    ranked.into_iter().map(|(i, _)| i).collect()
}

/// The ranked candidates of an arm that stood the most rounds: all of them served the same requests. One that was only in the first round
/// does not outrank one that stood a longer trial, however lucky its short one was: the leaders were ahead of it in that round.
fn finalists(field: &[Candidate], arm: Arm) -> Vec<usize> {
    let mut ranked = ranked(field, arm);
    let most = ranked.iter().map(|&i| field[i].rounds.len()).max().unwrap_or(0);
    ranked.retain(|&i| field[i].rounds.len() == most);
    ranked
}

/// Whether there was anything to choose from for this arm.
fn is_searched(field: &[Candidate], arm: Arm) -> bool {
    ranked(field, arm).len() > 1
}

/// Those that go on to the next round, arm by arm, each once. An arm with one candidate has nothing left to find out.
pub(super) fn leaders(field: &[Candidate], arms: &[Arm]) -> Vec<Vec<usize>> {
    let searched = arms.iter().filter(|&&arm| is_searched(field, arm));
    each_once(searched.map(|&arm| finalists(field, arm).into_iter().take(LEADERS).collect()).collect())
}

/// The same lists, each less what the lists before it have.
pub(super) fn each_once(mut lists: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    let mut seen = Vec::new();
    for list in &mut lists {
        list.retain(|place| !seen.contains(place));
        seen.extend_from_slice(list);
    }
    lists
}

/// The best candidate of every arm that had a choice.
pub(super) fn choose(field: &[Candidate], arms: &[Arm]) -> SearchResult {
    let mut found = SearchResult {
        candidates: field.iter().map(|tried| tried.trial(None)).collect(),
        arrangements: BTreeMap::new(),
        known_points: Vec::new(),
    };
    for &arm in arms.iter().filter(|&&arm| is_searched(field, arm)) {
        if let Some(&best) = finalists(field, arm).first() {
            found.give(arm, best);
        }
    }
    found
}

impl SearchResult {
    /// The arm runs as the candidate in this place.
    fn give(&mut self, arm: Arm, place: usize) {
        let chosen = &mut self.candidates[place];
        chosen.chosen_for =
            Some(chosen.chosen_for.take().map_or(arm.name().to_string(), |others| format!("{others}, {}", arm.name())));
        self.arrangements.insert(arm, chosen.arrangement.clone());
    }

    /// Arms that had no choice run as the first candidate that they take, which is known to be good on real engines.
    pub(super) fn or_known_points(mut self, arms: &[Arm]) -> SearchResult {
        for &arm in arms {
            let first = self.candidates.iter().position(|tried| arm.takes(tried.arrangement.policy));
            if let (false, Some(place)) = (self.arrangements.contains_key(&arm), first) {
                self.give(arm, place);
                self.known_points.push(arm);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::candidates::{
        candidates,
        tests::{engine, pools},
    };
    use super::*;
    use crate::stats::synthetic;

    fn arms() -> Vec<Arm> {
        Arm::searched_for().collect()
    }

    fn forecast(share: f64) -> Score {
        Score { goodput_share: share, score: share }
    }

    /// A field in which each candidate's times are stretched by the given factor, and which stood so many rounds of 20 requests.
    fn field(stretches: &[f64], rounds: &[usize]) -> Vec<Candidate> {
        candidates(&pools(), &engine(2048), 64, 240)
            .into_iter()
            .zip(stretches.iter().zip(rounds))
            .map(|(arrangement, (&stretch, &rounds))| Candidate {
                arrangement,
                forecast: forecast(0.0),
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
        let sent = |field: &[Candidate]| {
            let mut all = leaders(field, &arms()).concat();
            all.sort_unstable();
            all
        };
        assert_eq!(sent(&field(&[0.3, 0.2, 0.4, 0.1, 0.5], &[1; 5])), [0, 1, 2, 3]);
        // Only one dual pool in the field: it is going to be chosen for that arm anyway.
        assert_eq!(sent(&field(&[0.3, 0.9, 0.4], &[1; 3])), [0, 2]);
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
            field.iter_mut().zip(forecasts).for_each(|(tried, share)| tried.forecast = forecast(share));
            choose(&field, &arms()).arrangements[&Arm::SharedTuned].name.clone()
        };
        let (balanced, least_load) = ("balanced 224/64", "least_load as started");
        assert_eq!(chosen(&[0.1, 0.1, 0.2], [0.9, 0.9, 0.9]), balanced);
        assert_eq!(chosen(&[0.1, 0.1, 0.2], [0.7, 0.9, 0.9]), least_load);
        assert_eq!(chosen(&[0.1, 0.1, 50.0], [0.7, 0.9, 0.9]), balanced);
    }

    #[test]
    fn a_forecast_that_trials_contradict_has_no_say_and_the_record_says_why() {
        let mut field = field(&[0.2, 0.1, 0.1], &[1; 3]);
        // The simulation has nothing of one that kept everything within objectives, and all of one that did as well and was slower.
        for (tried, share) in field.iter_mut().zip([1.0, 0.9, 0.1]) {
            tried.forecast = forecast(share);
        }
        let found = choose(&field, &arms());
        assert!(found.candidates[0].forecast_overruled.is_none() && found.candidates[2].forecast_overruled.is_some());
        let [agreeing, overruled] = [0, 2].map(|i| field[i].rank());
        assert_eq!(overruled, field[2].score().score);
        assert!(agreeing != field[0].score().score);
    }

    #[test]
    fn nothing_tried_finds_nothing() {
        let found = choose(&field(&[0.1, 0.1], &[0, 0]), &arms());
        assert!(found.arrangements.is_empty());
        assert!(found.candidates.iter().all(|trial| trial.requests == 0 && trial.score.is_none()));
    }

    #[test]
    fn an_arm_without_a_choice_runs_as_the_point_that_is_known() {
        // Two shared ones were tried, and one dual pool.
        let found = choose(&field(&[0.3, 0.2, 0.1, 0.1], &[1, 1, 1, 0]), &arms()).or_known_points(&arms());
        assert_eq!(found.known_points, [Arm::DualPool]);
        assert_eq!(found.arrangements[&Arm::DualPool].name, "dual_pool prefill as started decode 224/64");
        assert_eq!(found.arrangements[&Arm::SharedTuned].name, "least_load as started");
        let untried = choose(&field(&[0.1, 0.1], &[0, 0]), &arms()).or_known_points(&arms());
        assert_eq!(untried.known_points, arms());
        assert_eq!(untried.arrangements[&Arm::SharedTuned].name, "balanced 224/64");
        assert_eq!(untried.candidates[0].chosen_for.as_deref(), Some("shared_tuned, best_found"));
    }
}
