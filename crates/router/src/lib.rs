//! The brain, sans-IO: events with their time go in, actions come out. It reads no clock and does no I/O, so the controller, the
//! tests and a simulator run the very same code.

mod admission;
mod arrange;
mod auto;
mod brain;
mod copies;
mod cost;
mod drain;
mod event;
mod explain;
mod fleet;
mod flight;
mod life;
mod locality;
mod migration;
pub mod policy;
pub mod prefix;
mod roles;
mod score;
mod settings;
mod signals;

#[cfg(test)]
mod tests;

pub use brain::Router;
pub use copies::{COPY_LINES_MAX, CopyTable};
pub use cost::CostModel;
pub use drain::DrainError;
pub use event::{Action, Event};
pub use explain::{Explanation, Terms};
pub use fleet::{DEVICE_SIGNALS_AGE_MAX, Demand, EngineFacts, EngineState, FleetView};
pub use settings::{
    AdmissionSettings, AutoSettings, CacheAwareSettings, EarlyRejection, MigrationSettings, PrefixSettings, PrefixTracking,
    RoleSettings, RouterSettings, ScoreSettings, SignalSettings, WindowKind,
};
pub use signals::{EngineSignals, Signal};
