//! The policies: where a request goes when it arrives, and where it decodes once it is prefilled. One file per policy; each decides
//! from a `FleetView` and what it remembers itself, in time linear in the engines and without allocating.
//!
//! Demand comes from the router's own count, which is exact and never late. What devices say (`EngineState::device`) is late by up to a
//! sampling period, and everything that arrives within one period would chase the same reading; so it decides between engines whose
//! scores are equal, and against a device that is lost, and nothing else. A policy that weighs it must take none for "not known".

mod active;
mod balanced;
mod build;
mod cache_aware;
mod dedicated;
mod draws;
mod dual_pool;
mod full_disaggregation;
mod least_load;
mod policy;
mod power_of_two;
mod predicted_latency;
mod round_robin;
mod score;
mod scorer;
mod turn;

pub(crate) use active::ActivePolicy;
pub(crate) use build::build;
pub(crate) use policy::Policy;
#[cfg(test)]
pub(crate) use scorer::{Scorer, Stage};
