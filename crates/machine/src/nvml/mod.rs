//! What NVML says of the GPUs while they work: a thread reads all of them once per period and hands each round to its subscribers.
//!
//! What a chip or a driver does not tell is none in the reading, never 0. A GPU that is lost becomes an event and a reading that says so;
//! the others are read on.

mod counters;
mod fields;
mod gpm;
mod probe;
mod sampler;

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use dualpool_types::Time;
use dualpool_types::records::GpuReading;

pub(super) use fields::field_values;

pub use sampler::{Sampler, Which};

/// One reading of every GPU that is sampled, in NVML's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    pub at: Time,
    pub readings: Vec<GpuReading>,
    pub events: Vec<GpuEvent>,
}

/// Something that happened to a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuEvent {
    pub gpu: u32,
    pub uuid: Arc<str>,
    pub kind: GpuEventKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuEventKind {
    /// It is gone for good: nothing brings it back but a reset.
    Lost,
    /// A critical error, by NVIDIA's number for it. None = the driver does not know which.
    Xid(Option<u64>),
}

impl fmt::Display for GpuEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GpuEvent { gpu, uuid, kind } = self;
        match kind {
            GpuEventKind::Lost => write!(f, "GPU {gpu} ({uuid}) is lost: the driver cannot reach it any more"),
            GpuEventKind::Xid(Some(code)) => {
                write!(f, "GPU {gpu} ({uuid}) reported Xid {code}; NVIDIA's list of Xids says what it means")
            }
            GpuEventKind::Xid(None) => write!(f, "GPU {gpu} ({uuid}) reported an error that the driver does not name; see dmesg"),
        }
    }
}

#[derive(Debug, Error)]
pub enum SamplerError {
    #[error("the GPUs cannot be watched: {why}")]
    NoNvml { why: String },
    #[error("the GPU {uuid} cannot be watched: NVML does not list it, but {}", known.join(", "))]
    NoSuchGpu { uuid: String, known: Vec<String> },
    #[error("the thread that watches the GPUs cannot be started: {0}")]
    Thread(std::io::Error),
}
