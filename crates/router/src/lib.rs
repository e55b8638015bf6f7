//! The brain, sans-IO: events with their time go in, actions come out. It reads no clock and does no I/O, so the controller, the
//! tests and a simulator run the very same code.

mod admission;
mod auto;
mod brain;
mod costs;
mod drain;
mod event;
mod explain;
mod fleet;
mod flight;
mod life;
mod migration;
mod placement;
pub mod policies;
mod predict;
pub mod prefix;
mod roles;
mod settings;

#[cfg(test)]
mod tests;

pub use brain::Router;
pub use costs::{COPY_LINES_MAX, CopyTable, CostModel};
pub use drain::DrainError;
pub use event::{Action, Event};
pub use explain::{Explanation, Terms};
pub use fleet::{DEVICE_SIGNALS_AGE_MAX, Demand, EngineFacts, EngineSignals, EngineState, FleetView, Signal};
pub use placement::{Ask, Placement};
pub use settings::{
    AdmissionSettings, AutoSettings, CacheAwareSettings, EarlyRejection, MigrationSettings, PrefixSettings, PrefixTracking,
    RoleSettings, RouterSettings, ScoreSettings, SignalSettings, WindowKind,
};
