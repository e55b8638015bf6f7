//! The devices of this machine, and which of them each engine gets.

mod activity;
mod affinity;
mod cores;
mod gpu;
mod machine;
pub mod nvml;
mod place;
mod settings;
pub mod topology;

pub use activity::{Activity, Shares};
pub use affinity::Affinity;
pub use cores::{CoreSet, CoresError, machine_core_sets, split_cores};
pub use gpu::{Gpu, Gpus};
pub use machine::{Machine, cpu_name, memory_available, memory_total, system_file};
pub use place::{Device, DeviceError, Placement, choose};
pub use settings::{DeviceKind, PoolSettings};
