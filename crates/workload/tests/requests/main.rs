//! Requests from seeds and from traces.

mod generated;
mod traces;
