//! Tables, plots, the objective map and the HTML report, from artifacts alone.

mod artifact;

pub use artifact::*;
