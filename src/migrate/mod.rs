//! Moves KV blocks: engines register their KV memory over the control socket, a plan of byte copies is made from what they
//! registered, and a mover thread executes it through a transport. Bytes pass neither through Python nor through the socket.

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
