//! Typed settings: defaults < TOML file < environment < flags. Unknown keys and impossible values are errors that name the key, the
//! value and what is allowed.

mod settings;

pub use settings::*;
