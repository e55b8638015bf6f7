//! Everything that needs a GPU, on stand-ins for NVIDIA's libraries (`tests/fakes`) and on the CPU.

mod cuda_device;
mod cuda_handoff;
mod gpu_check;
mod kernels;
mod migration_cost;
mod nvml;
#[path = "../support/mod.rs"]
mod support;
mod topology;
