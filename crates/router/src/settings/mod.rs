//! The router's settings, a file per part.

mod admission;
mod auto;
mod migration;
mod prefix;
mod roles;
mod router;
mod score;
mod signals;

pub use admission::{AdmissionSettings, EarlyRejection, WindowKind};
pub use auto::AutoSettings;
pub use migration::MigrationSettings;
pub use prefix::{PrefixSettings, PrefixTracking};
pub use roles::RoleSettings;
pub use router::RouterSettings;
pub use score::{CacheAwareSettings, ScoreSettings};
pub use signals::SignalSettings;
