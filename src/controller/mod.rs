//! The tokio shell around the router: it feeds engine, mover and client events in, carries the actions out, and records what
//! happened to every request.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::{RouterSettings, TelemetrySettings};
use crate::core::{Class, Clock, Objectives, RequestError, RequestId, Time, TokenId};
use crate::engine::{EngineEvents, EngineInfo, Fleet};
use crate::migrate::{Migrator, MoveEvent};
use crate::router::Arrangement;
use crate::telemetry::{EngineSample, RequestRecord};

/// A request as a client makes it.
#[derive(Clone, Debug)]
pub struct NewRequest {
    pub prompt: Arc<[TokenId]>,
    pub max_tokens: u32,
    pub ignore_eos: bool,
    pub class: Class,
    pub objectives: Objectives,
    /// The request's place in the workload, copied to its record.
    pub index: u32,
}

/// What the client of a request sees, in order: tokens, then one end.
#[derive(Debug)]
pub enum Reply {
    Tokens { at: Time, tokens: Vec<TokenId> },
    End(Result<(), RequestError>),
}

/// The client's end of a request. Dropping it before `Reply::End` cancels the request.
pub struct ReplyStream {
    pub id: RequestId,
    replies: mpsc::Receiver<Reply>,
}

impl ReplyStream {
    /// The next reply; none after `Reply::End`.
    pub async fn next(&mut self) -> Option<Reply> {
        self.replies.recv().await
    }
}

/// What a recording holds: the requests that ended and the samples taken since `record`.
#[derive(Debug, Default)]
pub struct Recording {
    pub requests: Vec<RequestRecord>,
    pub samples: Vec<EngineSample>,
}

/// A handle to the running controller; cheap to clone.
#[derive(Clone)]
pub struct Controller {}

impl Controller {
    /// Takes over the fleet. `migrator` is none for engines that cannot move KV.
    pub fn start(
        fleet: Fleet,
        events: EngineEvents,
        migrator: Option<(Migrator, mpsc::Receiver<MoveEvent>)>,
        router: &RouterSettings,
        telemetry: &TelemetrySettings,
        clock: Arc<dyn Clock>,
    ) -> Controller {
        todo!()
    }

    pub fn engines(&self) -> &[EngineInfo] {
        todo!()
    }

    /// Serves by this arrangement from now on: tunes the engines and swaps the policy. Waits until no request is in flight.
    pub async fn arrange(&self, arrangement: &Arrangement) -> anyhow::Result<()> {
        todo!()
    }

    pub async fn submit(&self, request: NewRequest) -> ReplyStream {
        todo!()
    }

    /// Starts a recording under this name: its times count from `origin`, and what was recorded before is dropped.
    pub async fn record(&self, arm: &str, repetition: u32, origin: Time) {
        todo!()
    }

    /// Ends the recording and hands it over.
    pub async fn recorded(&self) -> Recording {
        todo!()
    }

    /// Waits until no request is in flight and no block is held, at most `timeout`; returns the blocks still held (0 is right).
    pub async fn settle(&self, timeout: std::time::Duration) -> u64 {
        todo!()
    }

    /// Forgets all cached prefixes on all engines.
    pub async fn reset_prefix_caches(&self) -> anyhow::Result<()> {
        todo!()
    }

    /// Ends every engine and the migrator, and waits for them.
    pub async fn shutdown(&self) {
        todo!()
    }
}
