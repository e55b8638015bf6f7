//! Admission: who may start, who waits, and who is turned away at once because waiting would be in vain.
//!
//! - `queue`: a bounded queue, served by deadline, so that priorities count and the lowest does not starve.
//! - `window`: the prompt tokens under way, kept to what the engines can do in time. One for the whole fleet: the policy picks the engine
//!   after the request is let in and keeps the engines level, a request that waits for one engine would hold up those behind it that
//!   could go to another, and the signal is one share of the objectives whatever the engine.
//! - `forecast`: TTFT and ITL of a request that starts now, from the engines' load, `decodes` and `pace`.
//! - `gate`: the router's side of it.
//!
//! All of it is off by default: then a request starts when it arrives, and is rejected when `router.max_in_flight` are in flight.

mod gate;
mod pace;
mod queue;
mod window;

use dualpool_types::records::AdmissionState;
use dualpool_types::{Micros, Objectives, Priority, RejectReason, Time};

use crate::predict::{Decodes, Outlook};
use crate::{AdmissionSettings, EarlyRejection, WindowKind};
use pace::Pace;
use queue::{Queue, Waiting};
use window::{Sample, Window};

/// A caller is never told to come back later than this, nor sooner than the other.
const RETRY_AFTER_MS: (u64, u64) = (10, 60_000);
/// Time between two notes.
const NOTE_PERIOD: Micros = Micros(1_000_000);
/// A window that changed by less than this share is not worth a note.
const NOTE_CHANGE_MIN: f64 = 0.1;

/// What admission knows and remembers. Bounded: `queue_max` requests per priority, and a number per 50 ms in which a decode that still
/// runs began.
pub(super) struct Admission {
    queue: Queue,
    window: Option<Window>,
    pub decodes: Decodes,
    pace: Pace,
    reject: EarlyRejection,
    reject_over: [f64; 3],
    rejected: [u64; 3],
    noted: Option<(Time, AdmissionState)>,
}

impl Admission {
    pub fn new(settings: &AdmissionSettings, engines: usize) -> Admission {
        Admission {
            queue: Queue::new(settings.queue_max, settings.patience_ms),
            window: (settings.window == WindowKind::Aimd).then(|| Window::new(settings)),
            decodes: Decodes::new(engines),
            pace: Pace::default(),
            reject: settings.reject,
            reject_over: settings.reject_over,
            rejected: [0; 3],
            noted: None,
        }
    }

    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Why a request of this priority should not start, if its objectives would be broken. `waited` are the microseconds it has spent,
    /// or is to spend, before it starts.
    fn objection(&self, forecast: &Outlook, waited: f64, objectives: Objectives, priority: Priority) -> Option<RejectReason> {
        self.ttft_objection(waited + forecast.ttft, objectives, priority).or_else(|| {
            let (allowed, objective) = (self.allowed(objectives.itl_us_max, priority), objectives.itl_us_max);
            (forecast.itl > allowed).then(|| RejectReason::WouldMissItl {
                predicted_ms: ms(forecast.itl),
                allowed_ms: ms(allowed),
                objective_ms: objective.0 / 1_000,
                // The share of the decodes that must end, if ITL grows with their number.
                retry_after_ms: retry_after((1.0 - allowed / forecast.itl) * forecast.decode_lasts),
            })
        })
    }

    fn ttft_objection(&self, predicted: f64, objectives: Objectives, priority: Priority) -> Option<RejectReason> {
        let (allowed, objective) = (self.allowed(objectives.ttft_us_max, priority), objectives.ttft_us_max);
        (predicted > allowed).then(|| RejectReason::WouldMissTtft {
            predicted_ms: ms(predicted),
            allowed_ms: ms(allowed),
            objective_ms: objective.0 / 1_000,
            // What is queued is worked off in as much time as it takes.
            retry_after_ms: retry_after(predicted - allowed),
        })
    }

    fn allowed(&self, objective: Micros, priority: Priority) -> f64 {
        objective.0 as f64 * self.reject_over[priority.index()]
    }

    fn state(&self, tokens_in_flight: u64) -> AdmissionState {
        AdmissionState {
            window_tokens: self.window.as_ref().map(Window::tokens),
            tokens_in_flight,
            queued: self.queue.lengths(),
            rejected: self.rejected,
        }
    }

    /// What is to be noted now, if anything.
    fn note(&mut self, now: Time, tokens_in_flight: u64) -> Option<AdmissionState> {
        let state = self.state(tokens_in_flight);
        let (at, last) = self.noted.get_or_insert_with(|| (now, AdmissionState { tokens_in_flight: 0, ..state.clone() }));
        let moved = |(now, then): (u64, u64)| now.abs_diff(then) as f64 > NOTE_CHANGE_MIN * then as f64;
        let changed = state.window_tokens.zip(last.window_tokens).is_some_and(moved)
            || state.rejected != last.rejected
            || (0..3).any(|i| (state.queued[i] == 0) != (last.queued[i] == 0));
        if !changed || now.since(*at) < NOTE_PERIOD {
            return None;
        }
        (*at, *last) = (now, state.clone());
        Some(state)
    }
}

fn ms(us: f64) -> u64 {
    // `as` saturates, so that a forecast of for ever is a large number.
    (us / 1e3).round() as u64
}

fn retry_after(us: f64) -> u64 {
    ms(us).clamp(RETRY_AFTER_MS.0, RETRY_AFTER_MS.1)
}
