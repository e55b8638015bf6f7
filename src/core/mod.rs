//! The words every other module speaks: ids, units, time, seeded randomness, requests, legs, arrangements, engine signals and error
//! kinds. No I/O, and nothing here imports another module of the crate.

mod arrangement;
mod clock;
mod cpu_list;
mod error;
mod ids;
mod leg;
mod map;
mod program;
mod request;
mod rng;
mod signals;
mod units;

pub use arrangement::{Arrangement, ArrangementError, LONG_PROMPT_TOKENS_MIN, PolicyKind};
pub use clock::{Clock, ManualClock, MonotonicClock, Time, age};
pub use cpu_list::{CPUS_MAX, CpuList};
pub use error::{Phase, RejectReason, RequestError};
pub use ids::{BlockId, EngineId, LegId, RequestId, SessionId, TokenId};
pub use leg::{FinishReason, HeldKv, KvSource, Leg, LegFinish, LegOutput, LegStep, PREFILL_TOKENS_MIN, Tuning};
pub use map::{IdHasher, IdMap};
pub use program::Program;
pub use request::{Class, Objectives, Priority, Request, Role};
pub use rng::{Rng, seeded};
pub use signals::{DeviceSignals, EngineStats};
pub use units::{Bytes, Micros};
