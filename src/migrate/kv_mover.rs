//! What the controller needs of whatever moves KV blocks: `Migrator` for engines with memory of their own, and the virtual engines'
//! mover for the timing model. What comes of it arrives as `MoveEvent`s.

use crate::core::{EngineId, LegId};

#[async_trait::async_trait]
pub trait KvMover: Send + Sync {
    /// Gives blocks held for this leg back to their engine. Safe to repeat, and when nothing is held.
    fn release(&self, engine: EngineId, leg: LegId);

    /// Blocks that engines hold for legs that are over, now.
    fn held_blocks(&self) -> u64;

    /// Forgets a dead engine: its leases are dropped, and every copy from it or to it fails with a `MoveEvent::Moved` that says so.
    fn forget(&self, engine: EngineId);

    /// Ends the mover and waits for it. Called once the engines are gone.
    async fn shutdown(&self);
}
