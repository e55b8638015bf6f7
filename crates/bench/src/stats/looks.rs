//! Looks at the figures while they come in, and what may be decided at each.
//!
//! A test that is repeated with every repetition finds a difference between identical arms sooner or later. So the share of error that a run may
//! make is spent over its looks: what is left of it shrinks and is never used up, so that a run can always be gone on with.

use dualpool_report::REPETITIONS_MIN;

use super::estimate::Estimate;

/// The share of runs in which any planned comparison may be called different where nothing is, and of the comparisons that explore and are
/// called different, the share that are not.
pub(super) const ERROR: f64 = 0.05;

/// The looks of a run that goes on: every further one has a third more repetitions.
const LOOKS: [u32; 5] = [REPETITIONS_MIN, 9, 12, 18, 24];
const GROWTH: f64 = 4.0 / 3.0;

/// How much of `ERROR` is spent after so many repetitions. After the last of these, each further doubling spends half of what is left.
const SPENT: [(u32, f64); 5] = [(6, 0.1), (9, 0.25), (12, 0.45), (18, 0.65), (24, 0.8)];

/// The first look after this many repetitions.
pub fn next_look(repetitions: u32) -> u32 {
    let further = std::iter::successors(LOOKS.last().copied(), |&at| Some((f64::from(at) * GROWTH).ceil() as u32));
    LOOKS.into_iter().chain(further).find(|&look| look > repetitions).unwrap_or(u32::MAX)
}

/// The looks of a run of so many repetitions.
pub(super) fn looks_within(repetitions: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(next_look(0)), |&look| Some(next_look(look))).take_while(move |&look| look <= repetitions)
}

/// What each look calls different, with the error that it may spend: by the p-values of the comparisons after so many repetitions.
pub(super) fn seen_at(
    looks: impl Iterator<Item = u32>,
    p_values: impl Fn(u32) -> Vec<f64>,
) -> impl Iterator<Item = (u32, Vec<bool>)> {
    looks.scan(0.0, move |so_far, look| {
        let error = spent(look) - *so_far;
        *so_far = spent(look);
        Some((look, different(&p_values(look), error)))
    })
}

/// The share of runs in which an error may have been made by a look after so many repetitions. A look may come at any number of them.
pub(super) fn spent(repetitions: u32) -> f64 {
    let n = f64::from(repetitions);
    let (last, most) = SPENT[SPENT.len() - 1];
    let share = if repetitions >= last {
        1.0 - (1.0 - most) * f64::from(last) / n
    } else {
        let between = SPENT.windows(2).find(|pair| (pair[0].0..pair[1].0).contains(&repetitions));
        between.map_or(0.0, |pair| {
            let [(from, low), (to, high)] = [pair[0], pair[1]];
            low + (high - low) * (n - f64::from(from)) / f64::from(to - from)
        })
    };
    share * ERROR
}

/// Holm's procedure: which of these are different, if none of them is to be called so wrongly in more than this share of the runs.
fn different(p_values: &[f64], error: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut different = vec![false; p_values.len()];
    for (rank, &at) in order.iter().enumerate() {
        if p_values[at] > error / (p_values.len() - rank) as f64 {
            break;
        }
        different[at] = true;
    }
    different
}

/// Benjamini and Hochberg's procedure: of those that it names, this share is wrong on average.
pub(super) fn discovered(p_values: &[f64], share: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let enough = |rank: usize| p_values[order[rank]] <= share * (rank + 1) as f64 / p_values.len() as f64;
    let last = (0..order.len()).rev().find(|&rank| enough(rank));
    let mut discovered = vec![false; p_values.len()];
    order.iter().take(last.map_or(0, |last| last + 1)).for_each(|&at| discovered[at] = true);
    discovered
}

/// The 90 % interval lies within the margin: no difference that matters.
pub(super) fn equivalent(estimate: &Estimate, margin: f64) -> bool {
    let (low, high) = estimate.interval(0.9);
    -margin < low && high < margin
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, Normal};

    use dualpool_types::seeded;

    use super::*;

    #[test]
    fn the_error_is_spent_and_never_over() {
        assert_eq!(looks_within(60).collect::<Vec<_>>(), [6, 9, 12, 18, 24, 32, 43, 58]);
        assert_eq!(spent(5), 0.0);
        let all: Vec<f64> = (6..10_000).map(spent).collect();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]) && all.iter().all(|&error| error < ERROR));
        assert!((spent(12) - 0.45 * ERROR).abs() < 1e-12 && (spent(48) - 0.9 * ERROR).abs() < 1e-12);
    }

    #[test]
    fn holm_and_benjamini_hochberg_on_textbook_values() {
        let p = [0.01, 0.04, 0.03, 0.005];
        assert_eq!(different(&p, 0.05), [true, false, false, true]);
        assert_eq!(discovered(&p, 0.05), [true; 4]);
        assert_eq!(discovered(&[0.9, 0.8], 0.05), [false; 2]);
        assert!(different(&[], 0.05).is_empty() && discovered(&[], 0.05).is_empty());
    }

    /// Of six comparisons, those that are called different at any look.
    fn found(differences: [f64; 6], scatter: f64, repetitions: u32, seed: u64) -> [bool; 6] {
        let mut rng = seeded(seed, "looks");
        let noise = Normal::new(0.0, scatter).unwrap();
        let values: Vec<[f64; 6]> = (0..repetitions).map(|_| differences.map(|d| d + noise.sample(&mut rng))).collect();
        let of_one = |look: u32, m: usize| values[..look as usize].iter().map(|v| v[m]).collect::<Vec<_>>();
        let p_values = |look: u32| (0..6).map(|m| Estimate::of(&of_one(look, m)).unwrap().p_value()).collect();
        let mut found = [false; 6];
        for (_, now) in seen_at(looks_within(repetitions), p_values) {
            found.iter_mut().zip(now).for_each(|(found, now)| *found |= now);
        }
        found
    }

    /// The promise: of runs of identical arms at most one in twenty calls anything different, however often it looks; and an effect of 20 % is
    /// found in four of five runs of 12 repetitions that scatter by 10 %.
    #[test]
    fn looking_often_finds_no_more_than_it_may() {
        let wrong = (0..2_000).filter(|&seed| found([0.0; 6], 0.1, 58, seed).contains(&true)).count();
        assert!(wrong <= 100, "{wrong} of 2000 runs of identical arms");
        let effect = 1.2_f64.ln();
        let right = (0..1_000).filter(|&seed| found([effect, 0.0, 0.0, 0.0, 0.0, 0.0], 0.1, 12, seed)[0]).count();
        assert!(right >= 800, "{right} of 1000");
    }
}
