//! When requests arrive.

use rand::Rng as _;

use dualpool_types::{Micros, Rng};

use crate::Arrivals;

/// The arrivals by the name users give them.
pub fn arrivals_name(arrivals: Arrivals) -> &'static str {
    match arrivals {
        Arrivals::AllUpfront => "all_upfront",
        Arrivals::Poisson => "poisson",
    }
}

/// The arrival time of each of `groups` groups of requests, in rising order. Poisson arrivals are drawn given their number: uniformly over
/// the time that so many requests take at this rate, so that the rate is what was asked for and not merely close to it.
pub(super) fn times(arrivals: Arrivals, groups: usize, requests: usize, rate: Option<f64>, rng: &mut Rng) -> Vec<Micros> {
    let rate = match (arrivals, rate) {
        (Arrivals::Poisson, Some(rate)) if rate.is_finite() && rate > 0.0 => rate,
        _ => return vec![Micros::ZERO; groups],
    };
    let span_s = requests as f64 / rate;
    let mut times: Vec<Micros> = (0..groups).map(|_| Micros::from_secs(rng.random::<f64>() * span_s)).collect();
    times.sort_unstable();
    times
}
