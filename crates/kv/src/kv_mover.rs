//! What the fleet needs of the mover of KV blocks: `KvServer` for engines with memory of their own, and the virtual engines' mover for
//! the timing model. What comes of it arrives as `KvEvent`s.

use dualpool_types::{EngineId, LegId};

use super::KvServer;

#[async_trait::async_trait]
pub trait KvMover: Send + Sync {
    /// Gives blocks held for this leg back to their engine. Safe to repeat, and when nothing is held.
    fn release(&self, engine: EngineId, leg: LegId);

    /// Blocks that engines hold for legs that are over, now.
    fn held_blocks(&self) -> u64;

    /// Forgets a dead engine: its leases are dropped, and every copy from it or to it fails with a `KvEvent::Fetched` that says so.
    fn forget(&self, engine: EngineId);

    /// Ends the mover and waits for it. Called once the engines are gone.
    async fn shutdown(self: Box<Self>);
}

#[async_trait::async_trait]
impl KvMover for KvServer {
    fn release(&self, engine: EngineId, leg: LegId) {
        KvServer::release(self, engine, leg);
    }

    fn held_blocks(&self) -> u64 {
        KvServer::held_blocks(self)
    }

    fn forget(&self, engine: EngineId) {
        KvServer::forget(self, engine);
    }

    /// Dropping a KV server joins its threads: not on a thread that other tasks wait on.
    async fn shutdown(self: Box<Self>) {
        if tokio::task::spawn_blocking(move || drop(self)).await.is_err() {
            tracing::error!("the KV server panicked while it ended");
        }
    }
}
