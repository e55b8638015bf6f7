//! Requests from seeds and from traces.
#![allow(unreachable_pub, reason = "nothing reaches into a test from outside")]

mod generated;
mod traces;
