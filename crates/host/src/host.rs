//! The host: its router, the backend that carries out what the router asks for, and the folds over what happens.

use dualpool_router::{Action, CostModel, EngineFacts, Event, Router, RouterSettings};
use dualpool_types::{Arrangement, ArrangementError, Request, Time};

use crate::{Entry, Facts, Fold};

/// Engines, clients and a clock: what a router decides about.
pub trait Backend {
    /// The present, by the clock that all of the journal goes by.
    fn now(&self) -> Time;

    /// Carries out an action, whose entry in the journal has the time `at`. `router` has taken in the whole event by then.
    fn act(&mut self, at: Time, action: Action, router: &Router);
}

/// The only caller of `Router::handle`.
pub struct Host<B, F> {
    router: Router,
    pub backend: B,
    pub folds: F,
    /// What the router asked for in answer to one event; kept for its memory.
    actions: Vec<Action>,
}

impl<B: Backend, F: Fold> Host<B, F> {
    /// A host over these engines, by `EngineId`. It serves by `least_load` until it is given an arrangement.
    pub fn new(engines: &[EngineFacts], settings: &RouterSettings, backend: B, folds: F) -> Host<B, F> {
        Host { router: Router::new(engines, settings), backend, folds, actions: Vec::new() }
    }

    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Something happens now.
    #[inline]
    pub fn feed(&mut self, event: Event<'_>) {
        self.feed_at(self.backend.now(), event);
    }

    /// Something happened then. What the router asks for in answer happens now.
    #[inline]
    pub fn feed_at(&mut self, at: Time, event: Event<'_>) {
        self.enter(at, Entry::Event(&event));
        self.router.handle(at, event, &mut self.actions);
        // Most events ask for nothing.
        if !self.actions.is_empty() {
            self.act();
        }
    }

    /// A request arrives now, of which its workload knows this.
    pub fn arrives(&mut self, request: Request, facts: Facts) {
        self.enter(self.backend.now(), Entry::Facts(request.id, facts));
        self.feed(Event::Arrived(request));
    }

    /// Enters something into the journal that the router is not told.
    #[inline]
    pub fn enter(&mut self, at: Time, entry: Entry<'_>) {
        self.folds.entry(at, &entry);
    }

    /// Looks at all engines.
    pub fn sample(&mut self) {
        self.folds.entry(self.backend.now(), &Entry::Sampled(self.router.engines()));
    }

    /// Serves by this arrangement from now on. Only while nothing is in flight; the caller tunes the engines.
    pub fn arrange(&mut self, arrangement: &Arrangement) -> Result<(), ArrangementError> {
        self.router.arrange(arrangement)
    }

    /// The same with requests in flight, which stay where they are; engines whose settings change are tuned by actions.
    pub fn rearrange(&mut self, arrangement: &Arrangement) {
        self.router.rearrange(arrangement, &mut self.actions);
        self.act();
    }

    /// What the router takes things to cost from now on.
    pub fn set_costs(&mut self, costs: CostModel) {
        self.router.set_costs(costs);
    }

    #[inline]
    fn act(&mut self) {
        for action in self.actions.drain(..) {
            let at = self.backend.now();
            self.folds.entry(at, &Entry::Action(&action, self.router.engines()));
            self.backend.act(at, action, &self.router);
        }
    }
}
