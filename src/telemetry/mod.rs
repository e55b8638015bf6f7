//! What is measured of a run: the timeline of every request and samples of every engine and GPU, as they stand in the artifacts.

mod gpu;
mod record;

pub use gpu::{GpuProcess, GpuReading, GpuSample, Throttle, UtilSource};
pub use record::{EngineSample, HandoffRecord, LegRecord, Outcome, RequestRecord, Sample};
