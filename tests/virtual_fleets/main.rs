//! Fleets of engines that compute nothing, in real time and in virtual time: serving, whole benchmarks, the router's parts together.

mod adaptive;
mod admission;
mod dual_pool;
mod dynamic_router;
mod modelled;
mod serving;
mod summary_schema;
#[path = "../support/mod.rs"]
mod support;
