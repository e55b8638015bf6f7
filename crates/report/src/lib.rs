//! Tables, plots, the objective map and the HTML report, from artifacts alone.

mod arms;
mod beyond;
mod choose;
mod command;
mod conclusion;
pub mod earlier;
pub mod explain;
mod figures;
mod grid;
mod html;
mod lines;
mod live;
mod load;
pub mod measure;
pub mod metric;
mod objective_map;
pub mod overview;
mod paragraphs;
mod plot;
mod recommend;
mod routing;
mod screen;
pub mod settle;
pub mod simulated;
mod svg;
mod table;
mod terminal;
pub mod topology;
mod verdicts;
mod words;

#[cfg(test)]
mod fixture;

pub use arms::complete_repetitions;
pub use beyond::Beyond;
pub use choose::{MARGIN_SHARE, REPETITIONS_MIN};
pub use conclusion::{Conclusion, conclude};
pub use figures::figures;
pub use html::{ReportError, html, write_html};
pub use live::live_migrations;
pub use load::{Artifacts, LoadError, load};
pub use objective_map::{Leaders, ObjectiveMap};
pub use overview::{Overview, load_workloads, workload_folders};
pub(crate) use plot::Curve;
pub use plot::picture;
pub use recommend::{Recommendation, recommend};
pub use routing::routing;
pub use screen::{print, provisional};
pub use terminal::print_full;
