//! The words every other crate speaks: ids, units, time, seeded randomness, requests, legs, arrangements, engine signals and error kinds;
//! and the records that stand in artifacts.

mod arrangement;
pub mod artifact;
mod clock;
mod copy_line;
mod cpu_list;
mod engine;
mod error;
mod ids;
mod leg;
mod map;
mod place;
mod program;
pub mod records;
mod request;
mod rng;
mod sampling;
mod signals;
pub mod topology;
mod units;

pub use arrangement::{Arrangement, ArrangementError, LONG_PROMPT_TOKENS_MIN, PolicyKind};
pub use clock::{Clock, ManualClock, MonotonicClock, Time, age};
pub use copy_line::CopyLine;
pub use cpu_list::{CPUS_MAX, CpuList};
pub use engine::EngineInfo;
pub use error::{Phase, RejectReason, RequestError};
pub use ids::{BlockId, EngineId, LegId, RequestId, SessionId, TokenId};
pub use leg::{FinishReason, HeldKv, KvSource, Leg, LegFinish, LegOutput, LegStep, PREFILL_TOKENS_MIN, Tuning};
pub use map::{IdHasher, IdMap};
pub use place::{Turn, Wave};
pub use program::Program;
pub use request::{Class, Objectives, Priority, Request, Role};
pub use rng::{Rng, seeded, split_mix};
pub use sampling::{Sampling, Stays};
pub use signals::{DeviceSignals, EngineStats};
pub use units::{Bytes, Micros};
