//! What is measured of a run: the timeline of every request and samples of every engine, as they stand in the artifacts; ranges for
//! profilers, and what profilers found.

pub mod nvtx;
pub mod profile;
mod record;

pub use record::{EngineSample, HandoffRecord, LegRecord, Outcome, RequestRecord};
