//! The brain, sans-IO: events with their time go in, actions come out. It reads no clock and does no I/O, so the controller, the
//! tests and a simulator run the very same code.

mod arrange;
mod auto;
mod brain;
mod copies;
mod cost;
mod event;
mod fleet;
mod flight;
mod life;
pub mod policy;
mod roles;

#[cfg(test)]
mod tests;

pub use crate::core::{Arrangement, ArrangementError, PolicyKind};
pub use brain::Router;
pub use copies::{COPY_LINES_MAX, CopyLine, CopyTable};
pub use cost::CostModel;
pub use event::{Action, Event};
pub use fleet::{DEVICE_SIGNALS_AGE_MAX, EngineFacts, EngineState, FleetView, Load};
