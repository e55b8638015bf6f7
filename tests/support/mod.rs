//! What tests have in common.
#![allow(dead_code, reason = "no binary of tests uses all of it")]

pub mod fake_cuda;
pub mod fakes;
pub mod faults;
pub mod own_process;
pub mod program;
pub mod schemas;
pub mod virtual_pair;
