//! Settings from their layers: defaults < TOML file < environment < flags. Unknown keys and impossible values are errors that name the key,
//! the value and what is allowed.

mod error;
mod keys;
mod load;
mod origin;
mod validate;

pub use error::{ConfigError, Problem};
pub use keys::written;
pub use load::{ENV_PREFIX, FILE, FlagValue, Loaded, Sources, UNDER_PROFILER, default_values, load, values};
pub use origin::Origin;
pub use validate::check;
