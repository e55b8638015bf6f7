//! The brain, sans-IO: events with their time go in, actions come out. It reads no clock and does no I/O, so a host that serves, the
//! tests and a simulator run the very same code.
//!
//! Lowest first; what stands higher up in this list knows nothing of what stands below it.
//!
//! - `event`: what the router is told, and what it asks for.
//! - `explain`: why a request went where it went.
//! - `placement`: a request that needs a place, and the place.
//! - `costs`: what steps and copies cost, learnt while serving.
//! - `fleet`: what is known of each engine, and the view of all of them that decisions are made by.
//! - `predict`: what is predicted from that: of engines, and of requests.
//! - `policies`: where a request goes; one file per policy.
//! - `prefix`: what the engines' prefix caches are believed to hold.
//! - `flight`: a request between being let in and its end.
//! - `admission`: which requests start, which wait, and which are turned away.
//! - `migration`: live migration of requests to engines that decode them faster, where it pays.
//! - `drain`: what happens when an engine is drained.
//! - `roles`: engines that change pools.
//! - `auto`: the policy that chooses among arrangements.
//! - `lifecycle`: `Router`, which wires all of it.

mod admission;
mod auto;
mod costs;
mod drain;
mod event;
mod explain;
mod fleet;
mod flight;
mod lifecycle;
mod migration;
mod placement;
mod policies;
mod predict;
pub mod prefix;
mod roles;
mod settings;

#[cfg(test)]
#[allow(unreachable_pub)]
mod tests;

pub use costs::{COPY_LINES_MAX, CopyTable, CostModel};
pub use drain::DrainError;
pub use event::{Action, Event};
pub use explain::{Explanation, Terms};
pub use fleet::{DEVICE_SIGNALS_AGE_MAX, Demand, EngineFacts, EngineSignals, EngineState, FleetView, Signal};
pub use lifecycle::Router;
pub use placement::{Ask, Placement};
pub use settings::{
    AdmissionSettings, AutoSettings, CacheAwareSettings, EarlyRejection, MigrationSettings, PrefixSettings, PrefixTracking,
    RoleSettings, RouterSettings, ScoreSettings, SignalSettings, WindowKind,
};
