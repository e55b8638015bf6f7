//! What the router knows of each engine. Demand is counted from the router's own events, so it is never stale: a leg counts from
//! the moment it is sent (the in-flight credit that keeps a herd from chasing an old report), and what an engine says of itself only
//! refines it.
//!
//! - `demand`: the legs on an engine, summed up.
//! - `engine`: one engine, with its demand and what it said of itself.
//! - `view`: all of them, as a policy sees them.
//! - `predict`: what is predicted of them.

mod demand;
mod engine;
mod predict;
mod view;

pub use demand::Demand;
pub(super) use demand::LegDemand;
pub use engine::{DEVICE_SIGNALS_AGE_MAX, EngineFacts, EngineState};
pub use view::FleetView;
