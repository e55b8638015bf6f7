//! What is measured of a run: the timeline of every request and samples of every engine and GPU, as they stand in the artifacts, and how
//! such a file is written whole.

mod file;
mod gpu;
mod note;
mod record;

pub use file::{can_write_in, replace_file, replace_json};
pub use gpu::{GpuProcess, GpuReading, GpuSample, Throttle, UtilSource};
pub use note::{AdmissionState, Candidate, MigrationReason, NoteRecord, Placed, RouterNote};
pub use record::{EngineSample, HandoffKind, HandoffRecord, LegRecord, Outcome, RequestRecord, Sample};
