//! Recorded requests: readers of public traces and of our own format, in a stream.
//!
//! From the file outwards, each layer an iterator over the one below it: `lines` (bounded lines of text), `rows` (requests as they
//! are recorded, the format found from the content), `order` (by time), `replay` (as the requests of a run). Memory does not grow
//! with the length of a trace at any of them.
//!
//! A row that cannot be used is counted and named; nothing is left out in silence. `docs/workloads.md` describes the formats.

mod azure;
mod error;
mod format;
mod lines;
mod mooncake;
mod order;
mod own;
mod replay;
mod row;
mod rows;

pub use error::{BAD_ROWS_NAMED, BadRow, BadRows, TraceError};
pub use format::Format;
pub use lines::LINE_BYTES_MAX;
pub use order::REORDER_ROWS;
pub use replay::{Clipped, Replay, ReplayOptions, ReplayReport};
pub use row::TraceRow;
pub use rows::{Rows, open};
