//! Tables, plots, the objective map and the HTML report, from artifacts alone.

mod arms;
mod artifact;
mod figures;
mod html;
mod live;
mod load;
mod markup;
pub mod measure;
mod objective_map;
mod plot;
mod recommend;
mod table;
mod terminal;
pub mod topology;
mod words;

#[cfg(test)]
mod fixture;

pub use arms::complete_repetitions;
pub use artifact::*;
pub use figures::figures;
pub use html::{ReportError, html, write_html};
pub use live::live_migrations;
pub use load::{Artifacts, LoadError, load};
pub use objective_map::{Leaders, ObjectiveMap};
pub use recommend::{Recommendation, recommend};
pub use terminal::print;
