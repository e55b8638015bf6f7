//! How calls reach an engine's task.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use dualpool_types::{Leg, LegId, Tuning};

pub(super) enum Command {
    Submit(Leg),
    Abort(LegId),
    Detach(LegId),
    Tune(Tuning),
    Release(LegId),
    /// Answers whether the engine was idle.
    ResetPrefixCache(oneshot::Sender<bool>),
    /// Die at once, as if the process were killed.
    Kill,
    /// End in order.
    Shutdown,
}

/// Commands the engine has not taken yet. Bounded by its callers: per leg in flight, at most one submission, one detaching, one abort and a few
/// releases; and the engine's task takes all of them between two steps.
#[derive(Default)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    bell: Notify,
}

#[derive(Default)]
struct Queue {
    commands: VecDeque<Command>,
    closed: bool,
}

impl Inbox {
    /// Commands to an engine that is gone are dropped, and so are the answers they wait for.
    pub(super) fn push(&self, command: Command) {
        let mut queue = self.queue();
        if !queue.closed {
            queue.commands.push_back(command);
            self.bell.notify_one();
        }
    }

    pub(super) fn take(&self) -> VecDeque<Command> {
        std::mem::take(&mut self.queue().commands)
    }

    pub(super) fn close(&self) {
        *self.queue() = Queue { commands: VecDeque::new(), closed: true };
    }

    /// Until the engine is to stop what it is doing, be it in the middle of a step.
    pub(super) async fn ends(&self) {
        while !self.queue().commands.iter().any(|command| matches!(command, Command::Kill | Command::Shutdown)) {
            self.rung().await;
        }
    }

    /// Until something was pushed since the last time this returned.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A queue is whole between any two operations on it, so one whose holder panicked can be used on.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
