//! A request as a client makes it, and what the client gets back.

use std::sync::Arc;

use tokio::sync::mpsc;

use dualpool_host::Facts;
use dualpool_types::{Class, Objectives, Priority, Request, RequestError, RequestId, Sampling, Time, TokenId};

/// A request as a client makes it.
#[derive(Clone, Debug)]
pub struct NewRequest {
    pub prompt: Arc<[TokenId]>,
    pub max_tokens: u32,
    pub ignore_eos: bool,
    pub sampling: Sampling,
    pub class: Class,
    pub priority: Priority,
    pub objectives: Objectives,
    /// What its workload knows of it, for its record.
    pub facts: Facts,
}

impl NewRequest {
    pub fn numbered(self, id: RequestId) -> Request {
        let NewRequest { prompt, max_tokens, ignore_eos, sampling, class, priority, objectives, facts: _ } = self;
        Request { id, prompt, max_tokens, ignore_eos, sampling, class, priority, objectives }
    }
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
    /// As long as the longest answer: the fleet never waits for a slow client, and never drops a reply.
    pub(crate) replies: mpsc::Receiver<Reply>,
    /// Where the drop is told, so that it takes effect even when no token flows. Unbounded, and at most one message per stream.
    pub(crate) gone: mpsc::UnboundedSender<RequestId>,
    pub(crate) ended: bool,
}

impl ReplyStream {
    /// The next reply; none after `Reply::End`.
    pub async fn next(&mut self) -> Option<Reply> {
        let reply = self.replies.recv().await;
        self.ended |= matches!(reply, None | Some(Reply::End(_)));
        reply
    }
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        if !self.ended {
            // Closed first: a fleet that hears of the drop before it hears of the request sees that its client is gone.
            self.replies.close();
            // Fails only when the fleet has shut down, and the request with it.
            let _ = self.gone.send(self.id);
        }
    }
}
