//! A stand-in for NVIDIA's CUDA driver: 1 to 16 virtual GPUs whose memory is POSIX shared memory, so that processes exchange it as they
//! would by CUDA IPC. The real `cudarc` loads it as it would load `libcuda.so.1`.
//!
//! `FAKE_CUDA` holds a script in JSON (`script.rs` has the keys) or names its file; without it there are two GPUs. A bad script makes
//! `cuInit` fail and says why on standard error.
//!
//! It is as nasty as the real driver may be. Each stream is a thread, so work runs late, and two streams run in any order: a missing wait
//! shows. The address of device memory faults when the CPU touches it. A process cannot open its own IPC handle. An error of work that
//! was queued takes the whole context with it.
//!
//! Kernels do not run here, except for three that are known by name (`kernel.rs`). Streams do not wait for the default stream: nothing
//! that is tested here uses it.

#![allow(non_snake_case, reason = "the driver's names")]

#[macro_use]
mod entry;

mod context;
mod copy;
mod device;
mod event;
mod host;
mod ipc;
mod kernel;
mod memory;
mod script;
mod shm;
mod stream;
mod table;
