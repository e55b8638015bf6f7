//! Typed settings: defaults < TOML file < environment < flags. Unknown keys and impossible values are errors that name the key, the
//! value and what is allowed.

mod admission;
mod auto;
mod dynamic_router;
mod error;
mod keys;
mod load;
mod migration;
mod origin;
mod prefix;
mod roles;
mod router;
mod score;
mod settings;
mod signals;
mod validate;

pub use admission::{AdmissionSettings, EarlyRejection, WindowKind};
pub use auto::AutoSettings;
pub use dynamic_router::{DynamicRouterSettings, ROUTER_ARM, WorkloadKind};
pub use error::{ConfigError, Problem};
pub use keys::written;
pub use load::{ENV_PREFIX, FILE, FlagValue, Loaded, Sources, UNDER_PROFILER, default_values, load, values};
pub use migration::MigrationSettings;
pub use origin::Origin;
pub use prefix::{PrefixSettings, PrefixTracking};
pub use roles::RoleSettings;
pub use router::RouterSettings;
pub use score::{CacheAwareSettings, ScoreSettings};
pub use settings::*;
pub use signals::SignalSettings;
pub use validate::check;
