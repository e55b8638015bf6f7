//! The GPU sampler and what it feeds, through the real `nvml-wrapper`, on GPUs that do what a script says.

#[path = "../support/fakes.rs"]
mod fakes;
#[path = "../support/program.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod program;

mod run;
mod sampler;
mod stand_in;
mod terminal;
mod top;
#[path = "../virtual_pair/mod.rs"]
mod virtual_pair;
