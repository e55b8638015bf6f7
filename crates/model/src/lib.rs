//! What a vLLM engine does in a step, pure: continuous batching, chunked prefill, running legs first, first come first served, KV blocks as
//! the bound, a prefix cache, and step times fitted to real engines. No time, no threads, no I/O.

mod scheduler;
mod settings;
mod text;

pub use scheduler::{FetchRequest, Scheduler, StepCost, StepOutput};
pub use settings::{StepWork, Timing, VirtualSettings};
pub use text::{Fingerprint, text_after};
