//! Time is passed in, never read: the router and everything it decides run the same on a wall clock, in a test and in a simulation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Micros;

/// A moment, in microseconds since its clock's origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The span from `earlier` to this moment; zero when `earlier` is later.
    pub fn since(self, earlier: Time) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }

    pub fn plus(self, span: Micros) -> Time {
        Time(self.0 + span.0)
    }
}

pub trait Clock: Send + Sync {
    fn now(&self) -> Time;
}

/// The machine's monotonic clock (`CLOCK_MONOTONIC`), counted from its own origin, which vLLM's engine processes share. All of them
/// are one clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

impl MonotonicClock {
    pub fn new() -> MonotonicClock {
        MonotonicClock
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Time {
        let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `ts` is a valid timespec, and CLOCK_MONOTONIC exists on every Linux.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
        Time(ts.tv_sec as u64 * 1_000_000 + ts.tv_nsec as u64 / 1_000)
    }
}

/// How long ago a file's date was; zero when it is still to come.
pub fn age(date: SystemTime) -> Micros {
    Micros::from(date.elapsed().unwrap_or_default())
}

/// A clock that stands still until it is set. For tests and simulations.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn set(&self, now: Time) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time(self.0.load(Ordering::SeqCst))
    }
}
