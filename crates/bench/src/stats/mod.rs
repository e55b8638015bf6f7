//! From raw records to the figures and verdicts of `summary.json`. Nothing here measures: the same records always give the same
//! summary, so it can be recomputed from the artifacts.
//!
//! One rule for quantiles, everywhere: the nearest rank, the smallest measured value that at least that share of the values does
//! not exceed. A quantile is then always a value that a request had.

mod compare;
mod estimate;
mod expected;
mod looks;
mod metric;
mod noise;
mod overload;
mod summary;

#[cfg(test)]
pub(super) mod synthetic;

pub use looks::next_look;
pub use noise::{MetricNoise, NoiseFigures, Visible, noise};
pub(super) use summary::decided;
pub use summary::{SummaryError, rebuild, summarise};
