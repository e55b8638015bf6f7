//! (harness)
