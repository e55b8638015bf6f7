//! When requests arrive.

use rand_distr::{Distribution, Exp};

use dualpool_types::{Micros, Rng};

use crate::Arrivals;

/// The arrivals by the name users give them.
pub fn arrivals_name(arrivals: Arrivals) -> &'static str {
    match arrivals {
        Arrivals::AllUpfront => "all_upfront",
        Arrivals::Poisson => "poisson",
    }
}

/// The arrival time of each of `groups` groups of requests. With clumps there are fewer groups than requests, and the gaps between
/// groups grow by as much, so that `rate` stays the rate of requests.
pub(super) fn times(arrivals: Arrivals, groups: usize, requests: usize, rate: Option<f64>, rng: &mut Rng) -> Vec<Micros> {
    let rate = match (arrivals, rate) {
        (Arrivals::Poisson, Some(rate)) if rate.is_finite() && rate > 0.0 => rate,
        _ => return vec![Micros::ZERO; groups],
    };
    let group_rate = rate * groups as f64 / requests.max(1) as f64;
    // A positive finite rate times a positive share is a valid rate; without any group there is nothing to draw.
    let Ok(gaps) = Exp::new(group_rate) else { return Vec::new() };
    let mut at = 0.0;
    (0..groups)
        .map(|_| {
            at += gaps.sample(rng);
            Micros::from_secs(at)
        })
        .collect()
}
