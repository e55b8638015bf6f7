//! The program as a user starts it: what it prints, what it refuses, the files it leaves.

mod check_run;
mod cli;
mod config;
mod explain;
#[cfg(feature = "python")]
mod extension;
mod profile;
mod report;
mod simulate;
#[path = "../support/mod.rs"]
mod support;
mod topology;
