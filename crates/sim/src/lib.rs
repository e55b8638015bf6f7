//! A discrete-event clock that drives the real router with modelled engines: the same policy code that serves, thousands of times
//! faster than the engines and the same on every machine. What it says of an arrangement is a forecast, and a reason to measure it.
//!
//! Time is whole microseconds. What is kept in memory grows with the requests in flight, not with the workload: requests are taken one
//! by one as they arrive, and the record of each is handed over when it ends.

mod client;
mod clock;
mod faults;
mod machine;
pub mod scenario;
#[cfg(test)]
mod tests;
pub mod torture;
mod totals;

use thiserror::Error;

use dualpool_model::{Timing, VirtualSettings};
use dualpool_router::{CostModel, RouterSettings};
use dualpool_types::records::{EngineSample, RequestRecord, RouterNote};
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

/// Watches a simulation. Times count from `Time(0)`.
pub trait Observer {
    /// A request ended.
    fn request(&mut self, record: RequestRecord);

    /// The router noted a decision.
    fn note(&mut self, _at: Micros, _note: RouterNote) {}

    /// How often `sample` is called, while requests are in flight; never for none.
    fn sample_every(&self) -> Option<Micros> {
        None
    }

    /// An engine as the router sees it.
    fn sample(&mut self, _sample: EngineSample) {}
}

/// An observer that looks at records alone.
struct Records<F>(F);

impl<F: FnMut(RequestRecord)> Observer for Records<F> {
    fn request(&mut self, record: RequestRecord) {
        (self.0)(record);
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
        self.observe(requests, &mut Records(sink))
    }

    /// The same with an observer that may look at more than records.
    pub fn observe(
        &self,
        requests: impl IntoIterator<Item = (Time, Request)>,
        observer: &mut impl Observer,
    ) -> Result<Totals, SimError> {
        machine::Machine::new(self, requests.into_iter(), observer)?.run()
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

/// What a simulation came to.
#[derive(Debug, Default)]
pub struct Run {
    pub requests: Vec<RequestRecord>,
    /// What the router noted of its decisions, and when.
    pub notes: Vec<(Micros, RouterNote)>,
}

impl Observer for Run {
    fn request(&mut self, record: RequestRecord) {
        self.requests.push(record);
    }

    fn note(&mut self, at: Micros, note: RouterNote) {
        self.notes.push((at, note));
    }
}

/// The same with a router of these settings, and with what it noted.
pub fn serve_by(
    router: &RouterSettings,
    arrangement: &Arrangement,
    engine: &VirtualSettings,
    costs: CostModel,
    requests: &[(Time, Request)],
    seed: u64,
) -> Result<Run, SimError> {
    let engines = vec![engine.clone(); arrangement.roles.len()];
    let simulation = Simulation { engines: &engines, arrangement, router, costs, faults: &Faults::default(), seed };
    let mut run = Run::default();
    simulation.observe(requests.iter().cloned(), &mut run)?;
    run.requests.sort_unstable_by_key(|record| record.index);
    for (record, (_, request)) in run.requests.iter_mut().zip(requests) {
        record.id = request.id;
    }
    Ok(run)
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
