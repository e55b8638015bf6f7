//! A discrete-event clock that drives the real router with modelled engines: the same policy code that serves, thousands of times
//! faster than the engines and the same on every machine. What it says of an arrangement is a forecast, and a reason to measure it.

mod machine;

use thiserror::Error;

use crate::config::RouterSettings;
use crate::core::{Arrangement, ArrangementError, Micros, Request, RequestError, Time};
use crate::engine::virtual_engine::{Timing, VirtualSettings};
use crate::router::CostModel;
use crate::telemetry::{RequestRecord, RouterNote};

/// Events one simulation may take; past that something goes round in circles.
const EVENTS_MAX: u64 = 50_000_000;

#[derive(Debug, Error)]
pub enum SimError {
    #[error(transparent)]
    Arrangement(#[from] ArrangementError),
    #[error("arrangement `{arrangement}`: the simulation did not end within {EVENTS_MAX} events")]
    Endless { arrangement: String },
    #[error("arrangement `{arrangement}`: a request had no end when nothing was left to happen")]
    Stuck { arrangement: String },
}

/// Serves the requests, each arriving at its time, by this arrangement on engines like these. `seed` is that of the noise in the
/// length of steps. The records hold times since `Time(0)`, tokens' times and the outcome; legs and hand-offs are left out.
pub fn serve(
    arrangement: &Arrangement,
    engine: &VirtualSettings,
    costs: CostModel,
    requests: &[(Time, Request)],
    seed: u64,
) -> Result<Vec<RequestRecord>, SimError> {
    Ok(serve_by(arrangement, engine, costs, &RouterSettings::default(), requests, seed)?.requests)
}

/// What a simulation came to.
#[derive(Debug)]
pub struct Run {
    pub requests: Vec<RequestRecord>,
    /// What the router noted of its decisions, and when.
    pub notes: Vec<(Time, RouterNote)>,
}

/// `serve` with a router of these settings, but for the number of requests in flight, which has no limit.
pub fn serve_by(
    arrangement: &Arrangement,
    engine: &VirtualSettings,
    costs: CostModel,
    router: &RouterSettings,
    requests: &[(Time, Request)],
    seed: u64,
) -> Result<Run, SimError> {
    machine::Machine::new(arrangement, engine, costs, router, requests, seed)?.run(arrangement)
}

/// The timing of engines that cost what the router has learned.
pub fn timing(costs: &CostModel) -> Timing {
    let default = Timing::default();
    Timing {
        decode_step_us: (costs.step_us - default.step_us).max(0.0),
        decode_us: costs.decode_us,
        prefill_us: costs.prefill_us,
        copy_us: costs.handoff_us,
        copy_us_per_token: costs.handoff_us_per_token,
        ..default
    }
}

/// What a request got, while it is being served.
struct Served {
    token_us: Vec<Micros>,
    tokens: Vec<u32>,
    end: Option<(Micros, Result<(), RequestError>)>,
}
