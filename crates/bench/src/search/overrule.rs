//! When trials take a forecast's say away: it is off the share of requests within objectives that they saw by more than chance explains.

use dualpool_report::measure::within_objectives;
use dualpool_types::records::RequestRecord;

/// Requests of one trial share a queue: so many of them say as much as one that is independent of all others. Where there are trials enough,
/// their scatter says it in place of this.
const DESIGN_EFFECT: f64 = 3.0;

/// Fewer trials than this say too little of how much trials differ.
const SCATTER_TRIALS_MIN: usize = 3;

/// What is more than so many standard errors away is no chance.
const ERRORS: f64 = 2.0;

/// What speaks against a forecast of this share, as words for the trial's record; none where the trials allow it.
pub(super) fn overruled(forecast_share: f64, trials: &[Vec<RequestRecord>]) -> Option<String> {
    let requests: usize = trials.iter().map(Vec::len).sum();
    if requests == 0 {
        return None;
    }
    let share_of = |trial: &[RequestRecord]| trial.iter().filter(|r| within_objectives(r)).count() as f64 / trial.len() as f64;
    let share = share_of(&trials.concat());
    let effective = requests as f64 / design_effect(&trials.iter().map(|trial| (share_of(trial), trial.len())).collect::<Vec<_>>());
    // By Agresti and Coull, for all of a few requests within objectives are no proof that all always are.
    let middle = (share * effective + 2.0) / (effective + 4.0);
    let reach = ERRORS * (middle * (1.0 - middle) / (effective + 4.0)).sqrt();
    let (low, high) = ((middle - reach).max(0.0), (middle + reach).min(1.0));
    let percent = |share: f64| format!("{:.0}", share * 100.0);
    (!(low..=high).contains(&forecast_share)).then(|| {
        format!(
            "the simulation has {} % of the requests within objectives, the trials {} % (two standard errors: {} to {} %)",
            percent(forecast_share),
            percent(share),
            percent(low),
            percent(high)
        )
    })
}

/// How many requests say as much as one, by what each trial's share was and of how many requests.
fn design_effect(trials: &[(f64, usize)]) -> f64 {
    if trials.len() < SCATTER_TRIALS_MIN {
        return DESIGN_EFFECT;
    }
    let count = trials.len() as f64;
    let requests = trials.iter().map(|&(_, requests)| requests as f64).sum::<f64>() / count;
    let mean = trials.iter().map(|(share, _)| share).sum::<f64>() / count;
    let scatter = trials.iter().map(|(share, _)| (share - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let of_chance = mean * (1.0 - mean) / requests;
    if of_chance > 0.0 { (scatter / of_chance).max(1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::synthetic;

    /// A trial with so many requests within their objectives, and so many not.
    fn trial(within: u32, not: u32) -> Vec<RequestRecord> {
        [synthetic::arm("trial", 1, within, 0.1), synthetic::arm("trial", 1, not, 100.0)].concat()
    }

    #[test]
    fn chance_is_no_contradiction_and_more_than_two_standard_errors_are() {
        assert_eq!(overruled(0.9, &[]), None);
        assert_eq!(overruled(0.95, &[trial(30, 6)]), None, "83 % of 36 requests that share a queue");
        let why = overruled(0.97, &[trial(18, 18)]).expect("50 % are too few");
        assert!(why.contains("has 97 %") && why.contains("trials 50 %"), "{why}");
        assert!(overruled(0.4, &[trial(36, 0)]).is_some(), "a forecast may also be too low");
    }

    #[test]
    fn trials_that_agree_say_more_than_as_many_requests_of_one() {
        assert_eq!(overruled(0.95, &[trial(84, 12)]), None);
        assert!(overruled(0.95, &vec![trial(28, 4); 3]).is_some());
        assert_eq!(overruled(0.95, &[trial(32, 0), trial(20, 12), trial(32, 0)]), None, "as many, and they differ widely");
    }
}
