//! The devices of this machine, and which of them each engine gets.

mod cores;
pub mod cuda;
mod gpu;
mod machine;
mod place;

pub use cores::{CoreSet, CoresError, cores_near, machine_core_sets, split_cores};
pub use gpu::{Gpu, Gpus};
pub use machine::{Machine, cpu_name, memory_bytes};
pub use place::{Device, DeviceError, Placement, choose};
