//! What is measured of a run: the timeline of every request and samples of every engine, as they stand in the artifacts.

mod record;

pub use record::{EngineSample, HandoffRecord, LegRecord, Outcome, RequestRecord};
