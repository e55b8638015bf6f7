//! Settings from their layers: defaults < TOML file < environment < flags. Unknown keys and impossible values are errors that name the key,
//! the value and what is allowed.

mod error;
mod keys;
mod load;
mod origin;
mod reference;

pub use error::{ConfigError, Problem};
pub use load::{ENV_PREFIX, FILE, Loaded, Sources, UNDER_PROFILER, load};
pub use origin::Origin;
pub use reference::reference;
