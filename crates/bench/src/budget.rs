//! The time that a run may take once its engines are up, and what fits in it.

use std::time::{Duration, Instant};

use dualpool_report::REPETITIONS_MIN;

use super::drive::DriveError;

/// A repetition with fewer requests than this says next to nothing.
pub(super) const REQUESTS_MIN: u32 = 12;

/// A run of one arm against one other still decides something.
const ARMS_MIN: usize = 2;

/// What the opening of each arm takes, in repetitions.
const OPENING: f64 = 0.5;

/// Time that is running out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    began: Instant,
    total: Duration,
}

impl Budget {
    pub(super) fn begin(total: Duration) -> Budget {
        Budget { began: Instant::now(), total }
    }

    /// What is said when it was not enough to begin with.
    pub(super) fn over(&self) -> DriveError {
        DriveError::NoTime { budget_s: self.total.as_secs() }
    }

    pub(super) fn spent(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn left(&self) -> Duration {
        self.total.saturating_sub(self.spent())
    }
}

/// `2 min 10 s`
pub(super) fn minutes(time: Duration) -> String {
    match (time.as_secs() / 60, time.as_secs() % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, 0) => format!("{minutes} min"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

/// What a measurement is cut down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// Of the arms, in the order of their importance, so many from the first on.
    pub(super) arms: usize,
    /// In each repetition.
    pub(super) requests: u32,
}

/// How much of a measurement fits: as many repetitions as a verdict takes are to be had. First arms are left out, down to two, then requests,
/// down to `REQUESTS_MIN`. `run_of` says how many seconds one arm takes for so many requests.
pub(super) fn fit(left: Duration, arms: usize, requests: u32, run_of: impl Fn(u32) -> f64) -> Fit {
    let runs = |arms: usize| (f64::from(REPETITIONS_MIN) + OPENING) * arms as f64;
    let fits = |arms: usize, requests: u32| run_of(requests) * runs(arms) <= left.as_secs_f64();
    let fewest = arms.min(ARMS_MIN);
    if let Some(arms) = (fewest..=arms).rev().find(|&arms| fits(arms, requests)) {
        return Fit { arms, requests };
    }
    let least = requests.min(REQUESTS_MIN);
    Fit { arms: fewest, requests: (least..=requests).rev().find(|&requests| fits(fewest, requests)).unwrap_or(least) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_minutes_and_seconds() {
        assert_eq!([9, 60, 130].map(|s| minutes(Duration::from_secs(s))), ["9 s", "1 min", "2 min 10 s"]);
    }

    #[test]
    fn arms_go_before_requests_and_both_have_an_end() {
        // A second for ten requests, and one for each run.
        let run_of = |requests: u32| 1.0 + f64::from(requests) / 10.0;
        let fitting = |s| fit(Duration::from_secs(s), 5, 30, run_of);
        assert_eq!(fitting(130), Fit { arms: 5, requests: 30 });
        assert_eq!(fitting(129), Fit { arms: 4, requests: 30 });
        assert_eq!(fitting(52), Fit { arms: 2, requests: 30 });
        assert_eq!(fitting(39), Fit { arms: 2, requests: 20 });
        assert_eq!(fitting(1), Fit { arms: 2, requests: 12 });
        assert_eq!(fit(Duration::ZERO, 1, 5, run_of), Fit { arms: 1, requests: 5 });
        assert_eq!(fit(Duration::from_secs(60), 5, 30, |_| f64::INFINITY), Fit { arms: 2, requests: 12 });
    }
}
