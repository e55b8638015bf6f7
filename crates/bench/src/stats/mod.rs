//! From raw records to the figures and verdicts of `summary.json`. Nothing here measures: the same records always give the same
//! summary, so it can be recomputed from the artifacts.
//!
//! One rule for quantiles, everywhere: the nearest rank, the smallest measured value that at least that share of the values does
//! not exceed. A quantile is then always a value that a request had.

mod bootstrap;
mod compare;
mod expected;
mod interval;
mod metric;
mod observed;
mod summary;

#[cfg(test)]
pub(super) mod synthetic;

pub use metric::{REQUEST_METRICS, RUN_METRICS};
pub use summary::{SummaryError, rebuild, summarise};
