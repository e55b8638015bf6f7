//! Brings up what serves requests - the KV mover, the engines on their devices, the task that owns the router - and is what a benchmark,
//! the command line and tests hold of it: a `Fleet`.

pub mod admin;
mod copies;
mod fleet;
mod gpus;
pub mod program;
mod progress;
mod request;
mod serve;
mod settings;
mod spec;
mod start;

pub use copies::{Links, links};
pub use dualpool_host::{Facts, Recording};
pub use fleet::{Drain, Fleet, Unsettled};
pub use gpus::GpuWatch;
pub use progress::{Progress, Silent};
pub use request::{NewRequest, Reply, ReplyStream};
pub use settings::{ProfileKind, TelemetrySettings, log_filter};
pub use spec::FleetSpec;
pub use start::{start, start_over};
