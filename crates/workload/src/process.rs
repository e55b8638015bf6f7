//! Arrivals one after the other, without an end: even, at random, or in bursts. Real traffic is burstier than Poisson, and it is the
//! bursts that fill queues.

use rand::Rng as _;
use rand_distr::{Distribution, Exp1, Gamma};

use dualpool_types::{Micros, Rng};

use super::parameter::{ParameterError, require, within};

/// The burstiest arrivals taken: beyond it, nearly all of a run's requests arrive at once.
const BURST_FACTOR_MAX: f64 = 1000.0;

/// Spells with fewer arrivals are indistinguishable from Poisson arrivals, and nearly all of them are drawn for nothing.
const SPELL_ARRIVALS_MIN: f64 = 0.01;

/// How requests arrive around their mean rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ArrivalProcess {
    /// Independently of each other.
    #[default]
    Poisson,
    /// With gaps from a Gamma distribution. `burst_factor` is the variance of a gap over its squared mean: 1 is Poisson, less is more
    /// even, more is burstier. No gap knows of the one before.
    Gamma { burst_factor: f64 },
    /// In spells of random length: Poisson at `burst_factor` times the mean rate while on, nothing while off. On spells last `on` on
    /// average; off spells as long as it takes to keep the mean rate.
    OnOff { burst_factor: f64, on: Micros },
}

impl ArrivalProcess {
    pub(super) fn check(&self, rate: f64) -> Result<(), ParameterError> {
        within("rate", rate, 1e-6..=1e6, "from 0.000001 to 1000000 per second")?;
        match *self {
            ArrivalProcess::Poisson => Ok(()),
            ArrivalProcess::Gamma { burst_factor } => {
                within("burst_factor", burst_factor, 1e-3..=BURST_FACTOR_MAX, "from 0.001 to 1000")
            }
            ArrivalProcess::OnOff { burst_factor, on } => {
                within("burst_factor", burst_factor, 1.0..=BURST_FACTOR_MAX, "from 1 to 1000 where arrivals go on and off")?;
                let arrivals = on.as_secs() * rate * burst_factor;
                let expected = format!("long enough for {SPELL_ARRIVALS_MIN} arrivals on average; shorter spells are no bursts");
                require("on", on, arrivals >= SPELL_ARRIVALS_MIN, expected)
            }
        }
    }

    /// The times of arrival, in order, at `rate` per second on average.
    pub(super) fn times(self, rate: f64, mut rng: Rng) -> Times {
        let gaps = match self {
            ArrivalProcess::Poisson => Gaps::Poisson,
            // The constructor refuses what `check` has refused before; Poisson is the Gamma process in the middle of its range.
            ArrivalProcess::Gamma { burst_factor } => {
                Gamma::new(1.0 / burst_factor, burst_factor).map_or(Gaps::Poisson, Gaps::Gamma)
            }
            ArrivalProcess::OnOff { burst_factor, on } => {
                let on = on.as_secs() * rate;
                let off = on * (burst_factor - 1.0);
                // Wherever the process stands on average: always beginning on would make short runs busier than long ones.
                let mut left = 0.0;
                if rng.random_bool(1.0 / burst_factor) {
                    left = on * unit(&mut rng);
                }
                Gaps::OnOff { burst_factor, on, off, left }
            }
        };
        Times { gaps, rate, at: 0.0, rng }
    }
}

/// Gaps for a mean rate of 1.
#[derive(Clone, Debug)]
enum Gaps {
    Poisson,
    Gamma(Gamma<f64>),
    /// `left` of the present on spell.
    OnOff {
        burst_factor: f64,
        on: f64,
        off: f64,
        left: f64,
    },
}

impl Gaps {
    fn next(&mut self, rng: &mut Rng) -> f64 {
        match self {
            Gaps::Poisson => unit(rng),
            Gaps::Gamma(gamma) => gamma.sample(rng),
            Gaps::OnOff { burst_factor, on, off, left } => {
                let mut gap = 0.0;
                loop {
                    // Drawn anew in every spell: what is left of an exponential gap is distributed like a whole one.
                    let wait = unit(rng) / *burst_factor;
                    if wait <= *left {
                        *left -= wait;
                        return gap + wait;
                    }
                    gap += *left + *off * unit(rng);
                    *left = *on * unit(rng);
                }
            }
        }
    }
}

/// An exponential draw with mean 1.
fn unit(rng: &mut Rng) -> f64 {
    Exp1.sample(rng)
}

/// Times of arrival, in order and without an end.
#[derive(Clone, Debug)]
pub(super) struct Times {
    gaps: Gaps,
    rate: f64,
    at: f64,
    rng: Rng,
}

impl Iterator for Times {
    type Item = Micros;

    fn next(&mut self) -> Option<Micros> {
        self.at += self.gaps.next(&mut self.rng) / self.rate;
        Some(Micros::from_secs(self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::seeded;

    const ALL: [ArrivalProcess; 5] = [
        ArrivalProcess::Poisson,
        ArrivalProcess::Gamma { burst_factor: 0.25 },
        ArrivalProcess::Gamma { burst_factor: 4.0 },
        ArrivalProcess::OnOff { burst_factor: 4.0, on: Micros(1_000_000) },
        ArrivalProcess::OnOff { burst_factor: 1.0, on: Micros(1_000_000) },
    ];

    fn times(process: ArrivalProcess, seed: u64, count: usize) -> Vec<Micros> {
        process.times(8.0, seeded(seed, "arrivals")).take(count).collect()
    }

    /// Variance over mean of the number of arrivals per second: 1 for Poisson, whatever the rate.
    fn dispersion(times: &[Micros]) -> f64 {
        let seconds = times.last().unwrap().as_secs() as usize;
        let mut counts = vec![0.0; seconds + 1];
        times.iter().for_each(|at| counts[at.as_secs() as usize] += 1.0);
        counts.truncate(seconds);
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        counts.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / counts.len() as f64 / mean
    }

    #[test]
    fn the_mean_rate_is_the_one_asked_for() {
        for process in ALL {
            let times = times(process, 1, 40_000);
            assert!(times.is_sorted());
            let rate = times.len() as f64 / times.last().unwrap().as_secs();
            assert!((7.5..8.5).contains(&rate), "{process:?}: asked for 8/s, got {rate:.2}");
        }
    }

    #[test]
    fn short_runs_are_as_busy_as_long_ones() {
        let process = ArrivalProcess::OnOff { burst_factor: 4.0, on: Micros(1_000_000) };
        let first_second = (0..2000).map(|seed| times(process, seed, 200).iter().filter(|at| at.as_secs() < 1.0).count());
        let mean = first_second.sum::<usize>() as f64 / 2000.0;
        assert!((7.2..8.8).contains(&mean), "asked for 8 in the first second, got {mean:.2}");
    }

    #[test]
    fn a_burst_factor_makes_bursts() {
        let [poisson, even, gamma, on_off, always_on] = ALL.map(|process| dispersion(&times(process, 2, 40_000)));
        assert!((0.9..1.1).contains(&poisson) && (0.9..1.1).contains(&always_on), "{poisson} {always_on}");
        assert!(even < 0.5 * poisson && gamma > 2.0 * poisson && on_off > 2.0 * poisson, "{even} {gamma} {on_off}");
    }

    #[test]
    fn arrivals_that_cannot_be_drawn_are_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(ArrivalProcess::Poisson.check(rate).unwrap_err().key, "rate");
        }
        for burst_factor in [0.0, -1.0, f64::NAN, 1e9] {
            assert_eq!(ArrivalProcess::Gamma { burst_factor }.check(8.0).unwrap_err().key, "burst_factor");
        }
        let on_off = |burst_factor, on| ArrivalProcess::OnOff { burst_factor, on: Micros(on) }.check(8.0);
        assert_eq!(on_off(0.5, 1).unwrap_err().key, "burst_factor");
        let message = on_off(2.0, 100).unwrap_err().to_string();
        assert!(message.starts_with("on is 100 us; it must be long enough for 0.01 arrivals"), "{message}");
        assert!(ALL.iter().all(|process| process.check(8.0).is_ok()));
    }
}
