//! What steps and copies cost, in time. Both are learnt from what is seen while serving.

mod copies;
mod model;

pub use copies::{COPY_LINES_MAX, CopyTable};
pub use model::CostModel;
