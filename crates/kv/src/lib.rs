//! Copies KV blocks between engines: engines register their KV memory over the control socket, a copy plan is made from what they
//! registered, and the mover thread executes it through a transport. Bytes pass neither through Python nor through the socket.
//!
//! | module | what it is |
//! |---|---|
//! | `memory` | what an engine registered, checked; whether two engines match |
//! | `copy_plan` | pairs of blocks -> the fewest byte ranges to copy |
//! | `lease` | which leg holds which blocks, and until when |
//! | `broker` | the protocol as a state machine without I/O |
//! | `control` | the socket, its messages, and the thread that runs the broker |
//! | `cost` | what a copy costs, by size, number of byte ranges and class |
//! | `calibration` | the file that keeps what copies cost on this machine |
//! | `transport`, `shm`, `cuda` | what copies bytes; between memfds; between GPUs |
//! | `transports` | all of them as one, by the kind of an engine's memory |
//! | `mover`, `verify` | the thread that executes copy plans, and checks them |
//!
//! `docs/kv-protocol.md` describes the protocol; `python/dualpool/connector` is its other end.

mod broker;
mod calibration;
mod control;
mod copy_plan;
mod cost;
mod cuda;
mod kv_mover;
mod lease;
mod memory;
mod mover;
mod settings;
mod shm;
mod transport;
mod transports;
mod verify;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use dualpool_types::{Bytes, Clock, CopyLine, EngineId, LegId, Micros, Time};

pub use calibration::{COPY_COSTS_SCHEMA, COPY_LAYOUT, CalibrationError, CopyCosts, EngineLinks, MeasuredLink};
pub use control::wire;
pub use copy_plan::{BlockPair, ByteRange, CopyPlanError, copy_plan, total_bytes};
pub use cost::{ClassCost, CopyClass, Footprint, LinkCost, LinkCostError};
pub use cuda::{CudaTransport, KernelSettings};
pub use kv_mover::KvMover;
pub use memory::{KvGroup, KvMap, MapError, Mismatch};
pub use settings::{COPY_GRID_BLOCKS, KvSettings};
pub use shm::ShmTransport;
pub use transport::{Memory, Stop, Transport, TransportError};
pub use transports::Transports;

/// Events that the fleet has not read yet. When the channel is full, the KV server reads no more messages until there is room.
pub const KV_EVENTS_MAX: usize = 4096;

/// What the KV server tells the fleet.
#[derive(Clone, Debug, PartialEq)]
pub enum KvEvent {
    /// Both halves of the engine's connector are connected and its KV memory is mapped.
    Ready { engine: EngineId },
    /// The engine holds blocks for a leg that ended; its lease runs.
    Held { engine: EngineId, leg: LegId },
    /// The fetch that `leg` on engine `to` waited for is over; `error` says why nothing was copied (the engine then computes the
    /// prompt itself). Without bytes and without an error, there was nothing to copy.
    Fetched {
        leg: LegId,
        source: LegId,
        from: EngineId,
        to: EngineId,
        /// Until `started`, behind other copies.
        waited: Micros,
        started: Time,
        copy: Micros,
        bytes: Bytes,
        byte_ranges: u32,
        error: Option<String>,
    },
    /// The engine gave the blocks back to its pool.
    Released { engine: EngineId, leg: LegId },
    /// The blocks were not fetched in time; they are being released.
    LeaseExpired { engine: EngineId, leg: LegId },
    /// Copies from one engine to the other cost this, one line per way to do it. Said once both are ready, where it was measured.
    CopyCost { from: EngineId, to: EngineId, lines: Vec<CopyLine> },
    /// The control connection of an engine that was not forgotten is gone.
    Disconnected { engine: EngineId },
}

/// Owns the control socket, the engines' mapped KV memory, the leases and the mover thread. Dropping it stops running copies, ends
/// both threads, unmaps all memory and removes the run folder.
pub struct KvServer {
    // Dropped first: the folder goes when the socket in it is closed.
    thread: control::ControlThread,
    run_dir: control::RunDir,
}

impl KvServer {
    /// Opens the control socket in the run folder, and copies by this transport; `links` is what copies between these engines cost. Events
    /// come out of the returned channel.
    pub fn start(
        settings: &KvSettings,
        clock: Arc<dyn Clock>,
        links: EngineLinks,
        transport: Box<dyn Transport>,
    ) -> anyhow::Result<(KvServer, mpsc::Receiver<KvEvent>)> {
        let run_dir = control::RunDir::open(&settings.run_dir)?;
        let (events, received) = mpsc::channel(KV_EVENTS_MAX);
        let lease = Micros(settings.lease_ms * 1000);
        let options = control::Options { lease, verify: settings.verify, clock, links };
        let thread = control::ControlThread::start(run_dir.socket(), transport, options, events)?;
        Ok((KvServer { thread, run_dir }, received))
    }

    /// The 0700 folder of this run: the control socket, and whatever else engines of this run share.
    pub fn run_dir(&self) -> &Path {
        self.run_dir.path()
    }

    pub fn socket_path(&self) -> &Path {
        self.run_dir.socket()
    }

    /// Gives blocks held for this leg back to their engine. Safe to repeat, when nothing is held, and before the engine has said
    /// that it holds them.
    pub fn release(&self, engine: EngineId, leg: LegId) {
        self.thread.send(control::Command::Release { engine, leg });
    }

    /// Blocks that engines hold for legs that are over, now.
    pub fn held_blocks(&self) -> u64 {
        self.thread.held_blocks()
    }

    /// Forgets a dead engine: its memory is unmapped, its leases are dropped, copies from and to it fail.
    pub fn forget(&self, engine: EngineId) {
        self.thread.send(control::Command::Forget { engine });
    }
}
