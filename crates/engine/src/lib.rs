//! The `Engine` trait, and the engines behind it: vLLM in its own process (`vllm`), and a calibrated timing model (`virtual_engine`).

mod settings;
mod spot;
pub mod virtual_engine;
#[cfg(feature = "python")]
pub mod vllm;
mod weights;

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::mpsc;

use dualpool_types::{EngineId, EngineInfo, Leg, LegId, LegStep, TokenId, Tuning};

pub use settings::{EngineSettings, VirtualEngineSettings, VirtualKv};
pub use spot::{Spot, gpu_of_virtual};
pub use weights::weight_bytes;

/// Steps that engines may have handed over and the fleet not yet read, over all engines. An engine that finds the channel
/// full waits, which slows generation instead of growing memory.
pub const ENGINE_EVENTS_MAX: usize = 4096;

/// What engines tell the fleet that they serve, all over one channel, so that the order of one engine's events is kept.
#[derive(Debug)]
pub enum EngineEvent {
    Step(LegStep),
    /// The engine's process is gone. The engine's last event.
    Died {
        engine: EngineId,
        why: String,
    },
}

pub type EngineEvents = mpsc::Receiver<EngineEvent>;

#[derive(Debug, Error)]
pub enum TokenizeError {
    #[error("{engine} was started without a tokenizer; send token ids")]
    NoTokenizer { engine: EngineId },
    #[error("{engine} could not tokenize the text: {why}")]
    Failed { engine: EngineId, why: String },
}

/// A handle to one engine. Calls return at once; what comes of them arrives as `EngineEvent`s.
#[async_trait::async_trait]
pub trait Engine: Send + Sync {
    fn info(&self) -> &EngineInfo;

    /// Starts a leg. Its outputs follow as steps, the last one with a `LegFinish`.
    fn submit(&self, leg: Leg);

    /// Ends a leg early; it still finishes, with `FinishReason::Aborted`. A leg that is unknown or over is ignored.
    fn abort(&self, leg: LegId);

    /// Ends a leg with the token that it gets next (or with those that are being computed), as if it had been asked for no more, and
    /// holds its KV, as if it had been told to. A leg that is unknown or over is ignored.
    fn detach(&self, leg: LegId);

    /// Changes scheduler settings from the next step on. When it fails, the engine keeps those it has.
    fn tune(&self, tuning: Tuning) -> anyhow::Result<()>;

    /// Forgets all cached prefixes. Call it on an idle engine; returns false when blocks are still in use.
    async fn reset_prefix_cache(&self) -> bool;

    async fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, TokenizeError>;

    /// Ends the engine's process and waits for it. Legs still running are lost.
    async fn shutdown(&self);
}

/// All engines of a fleet, indexed by `EngineId`.
pub type Engines = Arc<[Box<dyn Engine>]>;
