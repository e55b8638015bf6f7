//! What the router has seen of an engine lately. Demand says what an engine has to do; signals say how well it has been doing it.
//!
//! A mean with a fixed weight per sample forgets by the number of samples: an engine that gives a hundred tokens in a second forgets a
//! bad minute at once, and an idle one remembers it for ever. So samples are weighed by their age, and a signal that nothing was added
//! to for a while is none at all. That is also what brings an engine back that was avoided for a bad first token: with no requests
//! there are no samples, and without samples it is judged like one of which nothing is known.

use dualpool_types::{Micros, Time};

use crate::settings::SignalSettings;

/// A mean of samples, each with a weight of `exp(-age / tau)`. For samples that come at a steady gap `dt` the newest one moves the mean
/// by `1 - exp(-dt / tau)`; those of one moment count alike, and the first one alone is the mean (there is no start from zero).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ewma {
    mean: f64,
    /// Of all samples so far, at `at`.
    weight: f64,
    at: Time,
}

impl Ewma {
    fn add(&mut self, at: Time, tau: Micros, sample: f64, weight: f64) {
        if !(sample.is_finite() && weight > 0.0 && weight.is_finite()) {
            return;
        }
        let faded = self.weight * (-(at.since(self.at).0 as f64) / tau.0 as f64).exp();
        self.weight = faded + weight;
        self.mean += (sample - self.mean) * weight / self.weight;
        self.at = self.at.max(at);
    }

    fn age(&self, now: Time) -> Option<Micros> {
        (self.weight > 0.0).then(|| now.since(self.at))
    }
}

/// What can be asked of an engine's signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Microseconds from a leg's dispatch to its first token. Of legs that compute their prompt.
    Ttft,
    /// The same, as a multiple of what the prompt would take on an idle engine by the cost model: of prompts of any length alike.
    Stretch,
    /// Microseconds between two tokens of a leg.
    Itl,
    /// Prompt tokens per second, while it computed any.
    PrefillRate,
    /// Output tokens per second, while it decoded.
    DecodeRate,
    /// Length of its steps, as a multiple of what the cost model of the whole fleet predicts: over 1 for an engine slower than others.
    Pace,
}

const SIGNALS: usize = 6;

/// The signals of one engine.
#[derive(Clone, Debug)]
pub struct EngineSignals {
    tau: Micros,
    age_max: Micros,
    warm_up_requests: u32,
    /// Legs that got their first token since the engine started, as far as it matters.
    served: u32,
    means: [Ewma; SIGNALS],
}

/// One stretch of an engine's time, over which it never fell idle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Busy {
    pub span: Micros,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
}

impl EngineSignals {
    pub fn new(settings: &SignalSettings) -> EngineSignals {
        EngineSignals {
            tau: Micros(settings.tau_ms.max(1).saturating_mul(1_000)),
            age_max: Micros(settings.age_max_ms.saturating_mul(1_000)),
            warm_up_requests: settings.warm_up_requests,
            served: 0,
            means: Default::default(),
        }
    }

    /// The value, if there is one that is fresh enough to go by.
    pub fn get(&self, signal: Signal, now: Time) -> Option<f64> {
        let mean = &self.means[signal as usize];
        (mean.age(now)? <= self.age_max).then_some(mean.mean)
    }

    /// The time since the signal's last sample; none when there was none.
    pub fn age(&self, signal: Signal, now: Time) -> Option<Micros> {
        self.means[signal as usize].age(now)
    }

    /// Whether the engine has served its first requests, so that what is seen of it counts.
    pub fn is_warm(&self) -> bool {
        self.served >= self.warm_up_requests
    }

    /// The engine started (again): nothing is known of it, and it is cold.
    pub(super) fn restarted(&mut self) {
        self.served = 0;
        self.forget();
    }

    /// What was seen under other settings says nothing of these.
    pub(super) fn forget(&mut self) {
        self.means = Default::default();
    }

    /// A leg got its first token `took` after it was sent; on an idle engine it would have been `alone`. None for one that loaded its
    /// KV, whose time is the copy's and not the engine's.
    pub(crate) fn first_token(&mut self, now: Time, times: Option<(Micros, f64)>) {
        if !self.is_warm() {
            self.served += 1;
            return;
        }
        if let Some((took, alone)) = times {
            self.add(Signal::Ttft, now, took.0 as f64, 1.0);
            self.add(Signal::Stretch, now, took.0 as f64 / alone, 1.0);
        }
    }

    /// A leg got `tokens` more, `gap` after the ones before.
    pub(crate) fn more_tokens(&mut self, now: Time, gap: Micros, tokens: u32) {
        if self.is_warm() && tokens > 0 {
            self.add(Signal::Itl, now, gap.0 as f64 / f64::from(tokens), tokens.into());
        }
    }

    /// A rate is a sample of its whole span: a long one weighs as much as the short ones that it could be cut into.
    pub(super) fn worked(&mut self, now: Time, busy: Busy) {
        if !self.is_warm() || busy.span == Micros::ZERO {
            return;
        }
        let weight = 1.0 - (-(busy.span.0 as f64) / self.tau.0 as f64).exp();
        for (signal, tokens) in [(Signal::PrefillRate, busy.prompt_tokens), (Signal::DecodeRate, busy.output_tokens)] {
            if tokens > 0 {
                self.add(signal, now, tokens as f64 / busy.span.as_secs(), weight);
            }
        }
    }

    /// A whole step took this long, and should have taken `expected`.
    pub(crate) fn stepped(&mut self, now: Time, took: Micros, expected: f64) {
        if self.is_warm() && took > Micros::ZERO {
            self.add(Signal::Pace, now, took.0 as f64 / expected, 1.0);
        }
    }

    fn add(&mut self, signal: Signal, at: Time, sample: f64, weight: f64) {
        self.means[signal as usize].add(at, self.tau, sample, weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng as _;

    const TAU: Micros = Micros(1_000_000);

    fn ms(ms: u64) -> Time {
        Time(ms * 1_000)
    }

    fn warm() -> EngineSignals {
        EngineSignals::new(&SignalSettings { tau_ms: 1_000, age_max_ms: 3_000, warm_up_requests: 0 })
    }

    #[test]
    fn at_a_steady_gap_the_newest_sample_weighs_what_the_gap_says() {
        let mut mean = Ewma::default();
        for i in 0..200 {
            mean.add(ms(i * 100), TAU, 10.0, 1.0);
        }
        mean.add(ms(20_000), TAU, 20.0, 1.0);
        let weight = 1.0 - (-0.1_f64).exp();
        assert!((mean.mean - (10.0 + 10.0 * weight)).abs() < 1e-6, "{mean:?}");
    }

    #[test]
    fn what_happened_and_not_how_often_it_was_looked_at_decides() {
        // One second of 10, then one of 20; seen ten times as often in the second.
        let seen = |every_ms: u64| {
            let mut signals = warm();
            for (rate, from, every_ms) in [(10, 0, 100), (20, 1_000, every_ms)] {
                for at in (from + every_ms..=from + 1_000).step_by(every_ms as usize) {
                    let busy = Busy { span: Micros(every_ms * 1_000), prompt_tokens: rate * every_ms, output_tokens: 0 };
                    signals.worked(ms(at), busy);
                }
            }
            signals.get(Signal::PrefillRate, ms(2_000)).unwrap()
        };
        assert!((seen(100) - seen(10)).abs() < 1e-6 * seen(10), "{} {}", seen(100), seen(10));
    }

    #[test]
    fn samples_of_one_moment_count_alike() {
        let mut mean = Ewma::default();
        [1.0, 2.0, 3.0, 6.0].iter().for_each(|&sample| mean.add(ms(5), TAU, sample, 1.0));
        assert!((mean.mean - 3.0).abs() < 1e-12, "{mean:?}");
    }

    #[test]
    fn after_a_long_silence_only_the_new_sample_counts() {
        let mut mean = Ewma::default();
        mean.add(ms(0), TAU, 1e9, 1.0);
        mean.add(Time(u64::MAX), TAU, 5.0, 1.0);
        assert_eq!(mean.mean, 5.0);
    }

    #[test]
    fn a_mean_stays_between_its_samples_whatever_their_times() {
        for seed in 0..200 {
            let (mut rng, mut mean) = (dualpool_types::seeded(seed, "means"), Ewma::default());
            for _ in 0..100 {
                let sample = *[rng.random_range(10.0..20.0), f64::NAN, f64::INFINITY].get(rng.random_range(0..5)).unwrap_or(&15.0);
                let (at, weight) = (rng.random_range(0..1 << 40) >> rng.random_range(0..40), rng.random_range(0.0..2.0));
                mean.add(Time(at), TAU, sample, weight);
                let sound = mean.weight == 0.0 || (10.0..=20.0).contains(&mean.mean);
                assert!(sound && mean.weight.is_finite(), "seed {seed}: {mean:?}");
            }
        }
    }

    #[test]
    fn a_signal_is_none_until_there_is_one_and_again_when_it_is_old() {
        let mut signals = warm();
        assert_eq!((signals.get(Signal::Ttft, ms(0)), signals.age(Signal::Ttft, ms(0))), (None, None));
        signals.first_token(ms(10), Some((Micros(500), 250.0)));
        assert_eq!(signals.get(Signal::Ttft, ms(10)), Some(500.0));
        assert_eq!(signals.get(Signal::Stretch, ms(3_010)), Some(2.0));
        assert_eq!(signals.get(Signal::Stretch, ms(3_011)), None, "older than three seconds");
        assert_eq!(signals.age(Signal::Ttft, ms(3_011)), Some(Micros(3_001_000)));
        assert_eq!(signals.get(Signal::Itl, ms(10)), None, "one signal does not stand for another");
    }

    #[test]
    fn a_cold_engine_leaves_no_trace_and_neither_does_a_restarted_one() {
        let mut signals = EngineSignals::new(&SignalSettings { warm_up_requests: 2, ..SignalSettings::default() });
        let serve = |signals: &mut EngineSignals, ttft: u64| {
            signals.first_token(ms(1), Some((Micros(ttft), 1.0)));
            signals.more_tokens(ms(2), Micros(ttft), 1);
            signals.worked(ms(3), Busy { span: Micros(ttft), prompt_tokens: 9, output_tokens: 9 });
            signals.stepped(ms(3), Micros(ttft), 1.0);
        };
        serve(&mut signals, 60_000_000);
        assert!((0..SIGNALS).all(|i| signals.means[i] == Ewma::default()), "{signals:?}");
        serve(&mut signals, 70);
        serve(&mut signals, 70);
        assert_eq!(signals.get(Signal::Ttft, ms(4)), Some(70.0));
        signals.restarted();
        serve(&mut signals, 60_000_000);
        assert!((0..SIGNALS).all(|i| signals.means[i] == Ewma::default()), "{signals:?}");
    }
}
