//! Whether something beside a run kept the machine busy.
//!
//! A repetition during which it did is made again, whatever its figures are: only the signals decide. How much is too much, the run finds out
//! on this machine, before it measures: a machine that is never quiet is not to be measured as if it were.

use std::time::Duration;

use dualpool_fleet::Recording;
use dualpool_machine::Activity;
use dualpool_report::measure::{quantile, sorted};
use dualpool_types::Micros;
use dualpool_types::artifact::Signals;

/// So much more than before the measurement is too much.
const FACTOR: f64 = 2.0;

/// However quiet it was before, shares of time up to these are no disturbance. The first is of other programs and of the time in which something waited:
/// a timer and a terminal are always there. The second is of what no program can help: a hypervisor, and clocks that are held down.
const SHARE_MIN: f64 = 0.1;
const FORCED_MIN: f64 = 0.03;

/// Nor is a sample that comes a few periods late, or a request that is sent one period late.
const GAP_PERIODS: f64 = 4.0;
const LATE_PERIODS: f64 = 1.0;

/// A machine that took no sample for this long, and for this many sample periods, stood still.
const PAUSE_MIN_MS: f64 = 1_000.0;
const PAUSE_PERIODS: f64 = 10.0;

const WORST: f64 = 0.99;

/// Watches a run of one arm.
pub(super) struct Watch {
    begun: Option<Activity>,
}

impl Watch {
    pub(super) fn begin() -> Watch {
        Watch { begun: Activity::now() }
    }

    /// What happened since. `late`: how long after its planned time each request was sent.
    pub(super) fn end(self, recording: &Recording, late: &[Duration]) -> Signals {
        let shares = self.begun.and_then(|begun| Activity::now()?.since(&begun));
        let gaps = sorted(gaps(recording).map(Micros::as_ms));
        let held = recording.gpus.iter().filter_map(|sample| Some(sample.reading.throttle.as_ref()?.iter().any(|why| why.slows())));
        let held: Vec<bool> = held.collect();
        let late = sorted(late.iter().map(|late| late.as_secs_f64() * 1e3));
        Signals {
            sample_gap_p99_ms: quantile(&gaps, WORST),
            sample_gap_max_ms: gaps.last().copied(),
            late_p99_ms: quantile(&late, WORST),
            others: shares.map(|shares| shares.others),
            stolen: shares.map(|shares| shares.stolen),
            pressure: shares.and_then(|shares| shares.pressure),
            clocks_held: (!held.is_empty()).then(|| held.iter().filter(|&&held| held).count() as f64 / held.len() as f64),
        }
    }
}

/// The times between two samples of the engines. A timer takes them: when one is many periods long, the whole machine stood still (a paused
/// virtual machine, a starved process), whatever arm was on.
fn gaps(recording: &Recording) -> impl Iterator<Item = Micros> {
    // Samples of all engines are taken at the same moments.
    recording.samples.windows(2).map(|pair| pair[1].at_us - pair[0].at_us).filter(|&gap| gap > Micros::ZERO)
}

/// The longest time between two samples, if the machine stood still for it.
pub(super) fn pause_of(signals: &Signals, sample_ms: u64) -> Option<f64> {
    signals.sample_gap_max_ms.filter(|&gap| gap >= pause_min_ms(sample_ms))
}

fn pause_min_ms(sample_ms: u64) -> f64 {
    PAUSE_MIN_MS.max(sample_ms as f64 * PAUSE_PERIODS)
}

/// The worse of each.
pub(super) fn worst(one: &Signals, other: &Signals) -> Signals {
    one.zip(other, |one, other| one.into_iter().chain(other).reduce(f64::max))
}

/// What is still no disturbance on a machine that did this before the measurement. Engines that compute on processors share them with whatever else
/// runs; others do not, and what keeps their processes waiting shows in late requests and samples.
pub(super) fn limits(before: &Signals, sample_ms: u64, on_processors: bool) -> Signals {
    let period = sample_ms as f64;
    let least = Signals {
        sample_gap_p99_ms: Some(period * GAP_PERIODS),
        sample_gap_max_ms: Some(pause_min_ms(sample_ms)),
        late_p99_ms: Some(period * LATE_PERIODS),
        others: on_processors.then_some(SHARE_MIN),
        stolen: Some(FORCED_MIN),
        pressure: on_processors.then_some(SHARE_MIN),
        clocks_held: Some(FORCED_MIN),
    };
    before.zip(&least, |before, least| Some(least?.max(before.unwrap_or_default() * FACTOR)))
}

/// The signals that are over their limits, by name.
pub(super) fn disturbed_by(signals: &Signals, limits: &Signals) -> Vec<String> {
    let both = signals.each().into_iter().zip(limits.each());
    let over = both.filter(|((_, value), (_, limit))| value.zip(*limit).is_some_and(|(value, limit)| value > limit));
    over.map(|((name, _), _)| name.to_string()).collect()
}

/// For a note: `others 0.31 (limit 0.10)`.
pub(super) fn described(signals: &Signals, limits: &Signals) -> String {
    let over = disturbed_by(signals, limits);
    let each = signals.each().into_iter().zip(limits.each()).filter(|((name, _), _)| over.iter().any(|over| over == name));
    let said = each.map(|((name, value), (_, limit))| {
        format!("{name} {:.2} (limit {:.2})", value.unwrap_or_default(), limit.unwrap_or_default())
    });
    said.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::records::EngineSample;
    use dualpool_types::{EngineId, Role};

    #[test]
    fn gaps_are_between_moments_at_which_samples_were_taken() {
        let sample = |at_ms: u64, engine: u16| EngineSample {
            arm: "a".into(),
            repetition: 0,
            at_us: Micros(at_ms * 1000),
            engine: EngineId(engine),
            role: Role::Shared,
            waiting: 0,
            running: 0,
            kv_usage: None,
            prefix_hits: None,
            transfers_in: 0,
        };
        let samples = [0, 50, 100, 9700, 9750].into_iter().flat_map(|at| [sample(at, 0), sample(at, 1)]).collect();
        let recording = Recording { samples, ..Recording::default() };
        let signals = Watch { begun: None }.end(&recording, &[Duration::from_millis(3), Duration::from_millis(1)]);
        assert_eq!((signals.sample_gap_max_ms, signals.late_p99_ms, signals.others), (Some(9600.0), Some(3.0), None));
        assert_eq!((pause_of(&signals, 50), pause_of(&signals, 1000)), (Some(9600.0), None));
        let nothing = Watch { begun: None }.end(&Recording::default(), &[]);
        assert_eq!(nothing, Signals::default());
        assert_eq!(disturbed_by(&nothing, &limits(&nothing, 50, true)), [""; 0]);
    }

    #[test]
    fn a_busy_machine_has_wider_limits_and_a_quiet_one_has_some() {
        let quiet = limits(&Signals { others: Some(0.0), ..Signals::default() }, 50, true);
        assert_eq!((quiet.others, quiet.late_p99_ms, quiet.sample_gap_max_ms), (Some(0.1), Some(50.0), Some(1000.0)));
        let busy = limits(&Signals { others: Some(0.4), late_p99_ms: Some(100.0), ..Signals::default() }, 50, true);
        assert_eq!((busy.others, busy.late_p99_ms), (Some(0.8), Some(200.0)));
        let signals = Signals { others: Some(0.5), stolen: Some(0.01), ..Signals::default() };
        assert_eq!(disturbed_by(&signals, &quiet), ["others"]);
        assert_eq!(disturbed_by(&signals, &busy), [""; 0]);
        assert_eq!(described(&signals, &quiet), "others 0.50 (limit 0.10)");
        assert_eq!(worst(&signals, &busy).others, Some(0.8));
        let elsewhere = limits(&Signals::default(), 50, false);
        assert_eq!(disturbed_by(&signals, &elsewhere), [""; 0], "engines that compute elsewhere");
    }
}
