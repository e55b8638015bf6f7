//! What the router knows of each engine. The load is counted from the router's own events, so it is never stale: a leg counts from
//! the moment it is sent (the in-flight credit that keeps a herd from chasing an old report), and what an engine says of itself only
//! refines it.
//!
//! - `load`: the legs on an engine, summed up.
//! - `engine`: one engine, with its load and what it said of itself.
//! - `view`: all of them, as a policy sees them.
//! - `predict`: what is predicted of them.

mod engine;
mod load;
mod predict;
mod view;

pub use engine::{DEVICE_SIGNALS_AGE_MAX, EngineFacts, EngineState};
pub(super) use load::LegLoad;
pub use load::Load;
pub use view::FleetView;
