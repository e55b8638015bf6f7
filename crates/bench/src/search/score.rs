//! How a trial is judged: goodput share first, slack second.
//!
//! The share of requests within their objectives is what the user asked for, but it is coarse: a trial has a few dozen requests, and
//! at comfortable or hopeless objectives all arrangements tie at 100 % or 0 %. Slack orders those. A request that used the share `x`
//! of an objective has the slack `(1 - x) / (1 + x)`: near 1 when it was far inside, 0 on the edge, towards -1 far outside; a failed
//! request has -1. A trial's slack is the mean over the worst quarter of its requests, because the next one to miss the objective
//! comes from there; taken for TTFT and for the longest ITL apart, or the tighter of the two would leave the other one to chance.

use dualpool_report::measure::{is_done, longest_itl_ms, ttft_ms, within_objectives};
use dualpool_types::records::RequestRecord;

/// A share difference of a point or two over a few dozen requests is chance, and slack, which every request has a say in, may
/// outweigh it: slack moves the score by at most this much up or down.
const SLACK_WEIGHT: f64 = 0.02;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    pub goodput_share: f64,
    /// `goodput_share + 0.02 * slack`; higher is better.
    pub score: f64,
}

impl Score {
    pub fn of(requests: &[RequestRecord]) -> Score {
        if requests.is_empty() {
            return Score { goodput_share: 0.0, score: f64::NEG_INFINITY };
        }
        let good = requests.iter().filter(|r| within_objectives(r)).count();
        let goodput_share = good as f64 / requests.len() as f64;
        let slack = (worst_quarter(requests.iter().map(ttft_used)) + worst_quarter(requests.iter().map(itl_used))) / 2.0;
        Score { goodput_share, score: goodput_share + SLACK_WEIGHT * slack }
    }
}

/// Mean slack of the quarter of requests that used most of their objective.
fn worst_quarter(used: impl Iterator<Item = f64>) -> f64 {
    let mut slacks: Vec<f64> = used.map(slack).collect();
    slacks.sort_by(f64::total_cmp);
    let worst = &slacks[..slacks.len().div_ceil(4)];
    worst.iter().sum::<f64>() / worst.len() as f64
}

fn ttft_used(request: &RequestRecord) -> f64 {
    let ttft = is_done(request).then(|| ttft_ms(request)).flatten();
    ttft.map_or(f64::INFINITY, |ttft| ttft / request.objectives.ttft_us_max.as_ms())
}

fn itl_used(request: &RequestRecord) -> f64 {
    if is_done(request) { longest_itl_ms(request) / request.objectives.itl_us_max.as_ms() } else { f64::INFINITY }
}

/// Of the share of an objective that was used. An objective of 0 is used up without end, or, at 0/0, just met.
fn slack(used: f64) -> f64 {
    if used.is_nan() {
        0.0
    } else if used.is_infinite() {
        -1.0
    } else {
        (1.0 - used) / (1.0 + used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::synthetic;
    use dualpool_types::records::Outcome;
    use dualpool_types::{Micros, Phase, RequestError};

    /// 20 requests whose times are `stretch` times those of the plain ones, under the same objectives.
    fn score(stretch: f64) -> Score {
        Score::of(&synthetic::arm("a", 1, 20, stretch))
    }

    #[test]
    fn ties_at_all_and_at_nothing_are_ordered_by_slack() {
        assert_eq!((score(0.1).goodput_share, score(0.2).goodput_share), (1.0, 1.0));
        assert!(score(0.1).score > score(0.2).score);
        assert_eq!((score(50.0).goodput_share, score(100.0).goodput_share), (0.0, 0.0));
        assert!(score(50.0).score > score(100.0).score);
    }

    #[test]
    fn a_clear_difference_in_goodput_outweighs_any_slack() {
        let mut edge = synthetic::arm("a", 1, 20, 0.1);
        for r in &mut edge {
            // All just inside their objectives.
            r.objectives.ttft_us_max = r.token_us[0] - r.arrived_us;
        }
        let mut far = synthetic::arm("a", 1, 20, 0.1);
        far[0].outcome = Outcome::Failed { error: RequestError::Cancelled { phase: Phase::Decode } };
        far[1].objectives.ttft_us_max = Micros(1);
        assert!(Score::of(&edge).score > Score::of(&far).score);
    }

    #[test]
    fn nothing_served_is_worst() {
        assert!(Score::of(&[]).score < score(1000.0).score);
    }
}
