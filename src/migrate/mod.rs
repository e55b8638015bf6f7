//! Moves KV blocks: engines register their KV memory over the control socket, a plan of byte copies is made from what they
//! registered, and a mover thread executes it through a transport. Bytes pass neither through Python nor through the socket.

mod kv_mover;

pub use kv_mover::KvMover;

use crate::core::{Bytes, EngineId, LegId, Micros, Time};

/// What the migrator tells the controller.
#[derive(Clone, Debug, PartialEq)]
pub enum MoveEvent {
    /// Both halves of the engine's connector are connected and its KV memory is mapped.
    Ready { engine: EngineId },
    /// The engine holds blocks for a leg that ended; its lease runs.
    Held { engine: EngineId, leg: LegId },
    /// The copy that `leg` on engine `to` waited for is over; `error` says why it did not happen (the engine then computes the
    /// prompt itself).
    Moved {
        leg: LegId,
        source: LegId,
        from: EngineId,
        to: EngineId,
        started: Time,
        copy: Micros,
        bytes: Bytes,
        runs: u32,
        error: Option<String>,
    },
    /// The engine gave the blocks back to its pool.
    Released { engine: EngineId, leg: LegId },
    /// Nobody fetched the blocks in time; they are being released.
    LeaseExpired { engine: EngineId, leg: LegId },
    /// The engine's control connection is gone.
    Disconnected { engine: EngineId },
}

/// Owns the control socket, the engines' mapped KV memory, the leases and the mover thread.
pub struct Migrator {}

/// Faults that tests inject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// Leave one block of every plan out.
    SkipBlock,
    /// Every copy fails in the middle.
    FailCopy,
    /// Every copy takes this much longer.
    Delay(Micros),
}

impl Migrator {
    /// Opens the control socket in the run folder. Events come out of the returned channel.
    pub fn start(
        settings: &crate::config::MigrateSettings,
        clock: std::sync::Arc<dyn crate::core::Clock>,
        fault: Fault,
    ) -> anyhow::Result<(Migrator, tokio::sync::mpsc::Receiver<MoveEvent>)> {
        todo!()
    }

    /// The 0700 folder of this run: the control socket, and whatever else engines of this run share.
    pub fn run_dir(&self) -> &std::path::Path {
        todo!()
    }

    pub fn socket_path(&self) -> &std::path::Path {
        todo!()
    }

    /// Gives blocks held for this leg back to their engine. Safe to repeat, and when nothing is held.
    pub fn release(&self, engine: EngineId, leg: LegId) {
        todo!()
    }

    /// Blocks that engines hold for legs that are over, now.
    pub fn held_blocks(&self) -> u64 {
        todo!()
    }

    /// Forgets a dead engine: its memory is unmapped, its leases are dropped, copies from and to it fail.
    pub fn forget(&self, engine: EngineId) {
        todo!()
    }
}
