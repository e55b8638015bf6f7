//! The router's side: what it is told, and what it asks for, of engines and of clients.

use dualpool_router::{Action, Event};
use dualpool_types::{EngineId, Micros, Request, Time};

use super::Machine;
use super::due::Order;
use crate::Observer;

impl<I: Iterator<Item = (Time, Request)>, O: Observer> Machine<'_, I, O> {
    /// Tells the router, and does what it asks for.
    pub(super) fn feed(&mut self, event: Event<'_>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.router.handle(self.now, event, &mut actions);
        self.asked |= !actions.is_empty();
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Submit { engine, leg } => {
                let role = self.router.role(engine);
                if let Some(client) = self.clients.get_mut(&leg.id.request) {
                    client.sent(self.now, engine, role, &leg);
                }
                self.count_depth(engine);
                self.tell(engine, Order::Submit(leg));
            }
            Action::Detach { engine, leg } => {
                if let Some(client) = self.clients.get_mut(&leg.request) {
                    client.detached(leg);
                }
                self.tell(engine, Order::Detach(leg));
            }
            Action::Abort { engine, leg } => self.tell(engine, Order::Abort(leg)),
            Action::Release { engine, leg } => {
                if !self.mishaps.release_is_lost() {
                    self.release(engine, leg);
                }
            }
            Action::Tune { engine, tuning } => self.engines[engine.index()].scheduler.tune(tuning),
            Action::Note(note) => self.observer.note(Micros(self.now.0), *note),
            Action::Emit { request, tokens } => {
                if let Some(client) = self.clients.get_mut(&request) {
                    client.emitted(self.now, &tokens);
                }
            }
            Action::Finish { request, result } => {
                self.events_at_last_end = self.totals.events;
                if let Some(client) = self.clients.remove(&request) {
                    self.observer.request(client.end(self.now, result));
                }
            }
        }
    }

    /// Brings the engine's queue up to date, with what the router counts.
    pub(super) fn count_depth(&mut self, id: EngineId) {
        let depth = self.router.demand(id).depth();
        self.engines[id.index()].has_depth(depth, self.now);
    }
}
