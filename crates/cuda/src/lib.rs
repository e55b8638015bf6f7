//! The CUDA driver as this program uses it: a thin, safe layer over cudarc's `sys` bindings, which are loaded at run time, so that the
//! program starts and works on a machine without CUDA.
//!
//! ```text
//! Driver::load() ── devices by UUID ── Context::retain(device)
//!                                        ├─ Stream   copies, fills, launches, in order and asynchronous
//!                                        ├─ Event    what other streams and this program wait for
//!                                        ├─ DeviceMemory / PinnedMemory / IpcMemory
//!                                        └─ Module   kernels
//! ```
//!
//! What is addressed is always a [`DeviceSpan`]: a piece of one of the memories above, within its bounds, with the context it belongs to.
//! Nothing here waits unless its name says so (`synchronize`, `wait_here`, `read`, `write`), except for freeing.
//!
//! Memory on a GPU is not memory in Rust's sense: a copy still queued when its memory is freed is reported by the driver as an error of
//! the stream. The types therefore borrow at submission only, and the caller keeps the memory until an event says that the work is done.

mod context;
mod device;
mod driver;
mod error;
mod event;
mod ipc;
pub mod kernels;
mod measure;
mod memory;
mod module;
pub mod nvtx;
mod pinned;
mod stream;
mod uuid;

pub use context::Context;
pub use device::{ComputeCapability, CudaDevice, Ordinal};
pub use driver::{BatchCopies, CudaVersion, DRIVER_VERSION_MIN, Driver};
pub use error::{CudaCode, CudaError};
pub use event::{Event, Timing};
pub use ipc::{IpcHandle, IpcHandleError, IpcMemory};
pub use measure::{PeerBandwidth, measure_peer_bandwidth};
pub use memory::{DeviceMemory, DevicePtr, DeviceSpan};
pub use module::{Function, KernelArgs, LaunchShape, Module};
pub use pinned::PinnedMemory;
pub use stream::{CopyRange, Stream};
pub use uuid::{GpuUuid, GpuUuidError};
