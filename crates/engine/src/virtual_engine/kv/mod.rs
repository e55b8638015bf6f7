//! KV memory that is really there, for virtual engines: it is registered with the KV server and copied by it like that of a real engine.
//! What an engine "computed" stands in it as bytes that depend on every token, and what was fetched is compared with what it must be.
//!
//! | module | what it is |
//! |---|---|
//! | `shape` | where blocks lie, and which bytes stand in them |
//! | `store` | the memory: a memfd, or that of a process which holds GPU memory |
//! | `process` | that process, and the way to it |
//! | `link` | the engine's end of the control socket |
//! | `lender` | the three together: hold, fetch, release |
//!
//! GPU memory needs a process of its own, as with real engines: CUDA does not let a process import what it exported itself.

mod lender;
mod link;
mod process;
mod shape;
mod store;

pub use process::serve as serve_gpu_memory;
pub use shape::Shape;
pub use store::{Content, KvPlace, Store};

pub(super) use lender::{Fetched, Lender};
