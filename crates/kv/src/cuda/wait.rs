//! Waiting for the GPU without holding a core, and without missing a stop.

use std::fmt;
use std::time::{Duration, Instant};

use dualpool_cuda::{CudaError, Event, Stream};

use super::super::transport::Stop;
use super::CopyError;

/// Small copies are over by then: looking again and again costs less than falling asleep.
const SPIN: Duration = Duration::from_micros(100);
/// How often an event is looked at after that. A sleep of this length takes Linux about twice as long.
const POLL: Duration = Duration::from_micros(50);
/// A part of a plan takes milliseconds. What is not over by then may never be, and the log should say what is waited for.
const SLOW: Duration = Duration::from_secs(10);

/// Until the event is reached, or a stop. An event that was never recorded counts as reached. After an error or a stop, work may still be
/// under way.
pub(super) fn reached(event: &Event, stop: &Stop) -> Result<(), CopyError> {
    let started = Instant::now();
    while !event.is_done()? {
        if stop.is_set() {
            return Err(CopyError::Stopped);
        }
        if started.elapsed() < SPIN {
            std::thread::yield_now();
        } else {
            stop.wait(POLL);
        }
    }
    if stop.is_set() { Err(CopyError::Stopped) } else { Ok(()) }
}

/// Until nothing that was queued is under way, however long that takes: the memory it touches may not be let go before. Says once what is
/// waited for when that takes long.
pub(super) fn drained(stream: &Stream, what: impl fmt::Display) -> Result<(), CudaError> {
    let started = Instant::now();
    while !stream.is_done()? {
        if started.elapsed() >= SLOW {
            tracing::warn!("{what} did not end within {SLOW:?}; both engines keep their memory until it does");
            return stream.synchronize();
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
