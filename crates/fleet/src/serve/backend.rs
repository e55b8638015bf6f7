//! The backend that serves: engines, the mover between them, and the clients of requests.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use dualpool_engine::Engines;
use dualpool_host::Backend;
use dualpool_kv::KvMover;
use dualpool_router::{Action, Router};
use dualpool_types::{Clock, EngineId, LegId, RequestId, Time};

use crate::request::Reply;

pub(super) struct Serving {
    pub engines: Engines,
    pub mover: Option<Box<dyn KvMover>>,
    pub clock: Arc<dyn Clock>,
    /// One per request that is not over, so at most `router.max_in_flight` and those that wait for admission.
    pub clients: HashMap<RequestId, mpsc::Sender<Reply>>,
}

impl Serving {
    pub(super) fn release(&self, engine: EngineId, leg: LegId) {
        if let Some(mover) = &self.mover {
            mover.release(engine, leg);
        }
    }
}

impl Backend for Serving {
    fn now(&self) -> Time {
        self.clock.now()
    }

    fn act(&mut self, at: Time, action: Action, _: &Router) {
        match action {
            Action::Submit { engine, leg } => {
                tracing::debug!(leg = %leg.id, %engine, prompt = leg.prompt.len(), load = leg.kv_source.is_some(), hold = leg.hold, "leg");
                self.engines[engine.index()].submit(leg);
            }
            Action::Abort { engine, leg } => self.engines[engine.index()].abort(leg),
            Action::Detach { engine, leg } => self.engines[engine.index()].detach(leg),
            Action::Release { engine, leg } => self.release(engine, leg),
            Action::Tune { engine, tuning } => {
                if let Err(error) = self.engines[engine.index()].tune(tuning) {
                    tracing::warn!(%engine, ?tuning, error = format!("{error:#}"), "the engine keeps its scheduler settings");
                }
            }
            Action::Note(note) => tracing::debug!(?note, "the router decided"),
            Action::Emit { request, tokens } => {
                if let Some(replies) = self.clients.get(&request) {
                    send(replies, Reply::Tokens { at, tokens });
                }
            }
            Action::Finish { request, result } => {
                let Some(replies) = self.clients.remove(&request) else { return };
                if let Err(error) = &result {
                    tracing::debug!(%request, %error, "request failed");
                }
                send(&replies, Reply::End(result));
            }
        }
    }
}

/// The channel has room for all replies of its request, so this fails only when the client is gone; its drop cancels the request.
pub(super) fn send(replies: &mpsc::Sender<Reply>, reply: Reply) {
    let _ = replies.try_send(reply);
}
