//! The brain, sans-IO: events with their time go in, actions come out. It reads no clock and does no I/O, so the controller, the
//! tests and a simulator run the very same code.

mod arrangement;
mod event;

pub use arrangement::{Arrangement, PolicyKind};
pub use event::{Action, Event};
