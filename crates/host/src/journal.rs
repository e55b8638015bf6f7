//! The journal: a stream of what happens, each entry with its time, and borrowed from where it is said.

use dualpool_router::{Action, EngineState, Event};
use dualpool_types::records::GpuReading;
use dualpool_types::{Bytes, EngineId, LegId, Micros, RequestId, Time, Turn, Wave};

/// One thing that happened. Entries come in the order in which they became known; the time of each is when it happened.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// The router is told this next.
    Event(&'a Event<'a>),
    /// The router asks for this; it is carried out next. The engines are as the router has them once it has taken in the whole event.
    Action(&'a Action, &'a [EngineState]),
    /// What the workload knows of a request that arrives next.
    Facts(RequestId, Facts),
    /// The engine had the tokens that this leg is said next to have given, by the engine's own word; from then on they were on their way
    /// here.
    Computed(LegId),
    /// The mover has copied the KV that a leg waited for.
    Copied(Copied),
    /// A look at all engines, as the router has them.
    Sampled(&'a [EngineState]),
    /// What the GPU of these engines says of itself.
    Gpu(&'a [EngineId], &'a GpuReading),
}

/// What a workload knows of a request and no router asks for. It joins the request's record by the request's id, in `Requests`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The request's place in the workload.
    pub index: u32,
    /// When it was to arrive, where that was planned: a request that is sent late has waited since it was due, and that delay is never
    /// hidden. Else when its client made it; none = when the router is told.
    pub arrived: Option<Time>,
    pub wave: Option<Wave>,
    pub turn: Option<Turn>,
}

/// A copy of KV that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The leg that waited for it, and its engine.
    pub leg: LegId,
    pub to: EngineId,
    /// How long it waited for other copies until it started.
    pub waited: Micros,
    pub started: Time,
    pub took: Micros,
    pub bytes: Bytes,
    /// Contiguous pieces.
    pub byte_ranges: u32,
}

/// Makes something of the journal, entry by entry. It borrows what it is shown, so whatever it keeps it copies.
pub trait Fold {
    fn entry(&mut self, at: Time, entry: &Entry<'_>);
}

/// Keeps nothing.
impl Fold for () {
    fn entry(&mut self, _: Time, _: &Entry<'_>) {}
}

impl<F: Fold> Fold for &mut F {
    #[inline(always)]
    fn entry(&mut self, at: Time, entry: &Entry<'_>) {
        (**self).entry(at, entry);
    }
}

impl<A: Fold, B: Fold> Fold for (A, B) {
    #[inline]
    fn entry(&mut self, at: Time, entry: &Entry<'_>) {
        self.0.entry(at, entry);
        self.1.entry(at, entry);
    }
}
