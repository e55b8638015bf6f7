//! The brain, sans-IO: events with their time go in, actions come out. It reads no clock and does no I/O, so the controller, the
//! tests and a simulator run the very same code.

mod event;

pub use crate::core::{Arrangement, PolicyKind};
pub use event::{Action, Event};
