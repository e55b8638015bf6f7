//! A discrete-event clock that drives the real router with modelled engines: the same policy code that serves, thousands of times
//! faster than the engines and the same on every machine. What it says of an arrangement is a forecast, and a reason to measure it.
//!
//! Time is whole microseconds. What is kept in memory grows with the requests in flight, not with the workload: requests are taken one
//! by one as they arrive, and the record of each is handed over when it ends.

mod clock;
mod faults;
mod machine;
pub mod scenario;
#[cfg(test)]
mod tests;
pub mod torture;
mod totals;

use thiserror::Error;

use dualpool_host::{Entry, Fold, Recorder, Recording, Requests, Run};
use dualpool_model::{Timing, VirtualSettings};
use dualpool_router::{CostModel, RouterSettings};
use dualpool_types::records::RequestRecord;
use dualpool_types::{Arrangement, ArrangementError, Micros, Request, Time};

pub use faults::{ClientsLeave, CutLink, DeathAt, EngineDeath, FaultError, Faults, LostMessages, SlowLink, StaleTelemetry};
pub use totals::{EngineTotals, Totals};

/// Events between two ends of requests, at most; past that something goes round in circles.
const EVENTS_WITHOUT_END_MAX: u64 = 50_000_000;

/// Ticks in which nothing is under way and the router asks for nothing, at most: what waits then waits for ever.
const IDLE_TICKS_MAX: u64 = 100_000;

#[derive(Debug, Error)]
pub enum SimError {
    #[error(transparent)]
    Arrangement(#[from] ArrangementError),
    #[error(transparent)]
    Faults(#[from] FaultError),
    #[error("arrangement `{arrangement}`: no request ended within {EVENTS_WITHOUT_END_MAX} events")]
    Endless { arrangement: String },
    #[error("arrangement `{arrangement}`: {requests} requests had no end when nothing was left to happen")]
    Stuck { arrangement: String, requests: usize },
}

/// A fleet of modelled engines with its router, ready to serve.
#[derive(Clone, Copy, Debug)]
pub struct Simulation<'a> {
    /// One per engine; they may differ.
    pub engines: &'a [VirtualSettings],
    pub arrangement: &'a Arrangement,
    pub router: &'a RouterSettings,
    /// What the router takes engines to cost at first.
    pub costs: CostModel,
    pub faults: &'a Faults,
    /// Of the noise in the length of steps, and of faults.
    pub seed: u64,
}

/// Looks at records alone.
struct Records<F> {
    requests: Requests,
    run: Run,
    sink: F,
}

impl<F: FnMut(RequestRecord)> Fold for Records<F> {
    #[inline(always)]
    fn entry(&mut self, at: Time, entry: &Entry<'_>) {
        if let Some(record) = self.requests.entry(at, entry, &self.run) {
            (self.sink)(record);
        }
    }
}

impl Simulation<'_> {
    /// Serves the requests, which come in order of their times; `sink` gets each one's record when it ends. A request's place in the
    /// workload, counted from 0, becomes its id.
    pub fn serve(
        &self,
        requests: impl IntoIterator<Item = (Time, Request)>,
        sink: impl FnMut(RequestRecord),
    ) -> Result<Totals, SimError> {
        let run = Run::of(&self.arrangement.name);
        self.journal(requests, None, &mut Records { requests: Requests::default(), run, sink })
    }

    /// The same for folds that look at more than records; times count from `Time(0)`. Engines are sampled every so often while requests are in
    /// flight; never for none.
    pub fn journal(
        &self,
        requests: impl IntoIterator<Item = (Time, Request)>,
        sample_every: Option<Micros>,
        folds: &mut impl Fold,
    ) -> Result<Totals, SimError> {
        machine::Machine::new(self, requests.into_iter(), sample_every, folds)?.run()
    }
}

/// Serves the requests by this arrangement on engines that are all like this one, without faults. The records come in the order of the
/// requests.
pub fn serve(
    arrangement: &Arrangement,
    engine: &VirtualSettings,
    costs: CostModel,
    requests: &[(Time, Request)],
    seed: u64,
) -> Result<Vec<RequestRecord>, SimError> {
    let router = RouterSettings { max_in_flight: requests.len() as u32, ..RouterSettings::default() };
    Ok(serve_by(&router, arrangement, engine, costs, requests, seed)?.requests)
}

/// The same with a router of these settings, and with what it noted.
pub fn serve_by(
    router: &RouterSettings,
    arrangement: &Arrangement,
    engine: &VirtualSettings,
    costs: CostModel,
    requests: &[(Time, Request)],
    seed: u64,
) -> Result<Recording, SimError> {
    let engines = vec![engine.clone(); arrangement.roles.len()];
    let simulation = Simulation { engines: &engines, arrangement, router, costs, faults: &Faults::default(), seed };
    let mut recorder = Recorder::default();
    recorder.start(Run::of(&arrangement.name), Vec::new());
    simulation.journal(requests.iter().cloned(), None, &mut recorder)?;
    let mut recording = recorder.end();
    recording.requests.sort_unstable_by_key(|record| record.index);
    for (record, (_, request)) in recording.requests.iter_mut().zip(requests) {
        record.id = request.id;
    }
    Ok(recording)
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
