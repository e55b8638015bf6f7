//! The handle that the fleet holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use dualpool_types::{EngineId, EngineInfo, Leg, LegId, TokenId, Tuning};

use super::bridge::{Answer, Command};
use super::error::StartError;
use super::folder::EngineFolder;
use super::interpreter::Interpreter;
use super::lane::Lane;
use super::spec::EngineSpec;
use super::tuning::TuningFile;
use crate::{Engine, TokenizeError};

/// How long a killed process may take to be gone.
const KILL_S_MAX: u64 = 10;
/// How long Python's half of an engine may take to clean up after its process.
const CLOSE_S_MAX: u64 = 10;

pub(super) struct VllmEngine {
    interpreter: &'static Interpreter,
    lane: Arc<Lane>,
    tuning: TuningFile,
    model: PathBuf,
    info: EngineInfo,
    _folder: EngineFolder,
}

/// What `Lane.info` in `dualpool/engine.py` returns.
#[derive(Deserialize)]
struct Started {
    backend: String,
    max_model_len: u32,
    vocab_size: u32,
    block_size: u32,
    kv_blocks: u32,
    max_num_batched_tokens: u32,
    max_num_seqs: u32,
}

impl VllmEngine {
    pub(super) fn new(
        interpreter: &'static Interpreter,
        lane: Arc<Lane>,
        folder: EngineFolder,
        tuning: TuningFile,
        spec: &EngineSpec,
        started: &str,
    ) -> Result<VllmEngine, StartError> {
        let started: Started = serde_json::from_str(started).map_err(|error| StartError::Interpreter { why: error.to_string() })?;
        let info = EngineInfo {
            id: spec.id,
            device: spec.pin.to_string(),
            model: spec.settings.model.display().to_string(),
            backend: started.backend,
            max_model_len: started.max_model_len,
            vocab_size: started.vocab_size,
            block_size: started.block_size,
            kv_blocks: started.kv_blocks,
            max_num_batched_tokens: started.max_num_batched_tokens,
            max_num_seqs: started.max_num_seqs,
            kv_transfer: spec.control_socket.is_some(),
            prefix_caching: spec.settings.enable_prefix_caching,
            pid: lane.pid(),
        };
        Ok(VllmEngine { interpreter, lane, tuning, model: spec.settings.model.clone(), info, _folder: folder })
    }

    fn id(&self) -> EngineId {
        self.info.id
    }

    /// Has the pump call one of its methods for this engine.
    async fn call(&self, method: &'static str, argument: String) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.interpreter.push(Command::Call { key: self.lane.key, method, argument, reply });
        answer.await.unwrap_or_else(|_| Err(self.interpreter.broken().to_string()))
    }
}

#[async_trait::async_trait]
impl Engine for VllmEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn submit(&self, leg: Leg) {
        self.interpreter.push(Command::Submit { key: self.lane.key, leg, kv_transfer: self.info.kv_transfer });
    }

    fn abort(&self, leg: LegId) {
        self.interpreter.push(Command::Abort { key: self.lane.key, leg });
    }

    fn detach(&self, leg: LegId) {
        self.interpreter.push(Command::Detach { key: self.lane.key, leg });
    }

    fn tune(&self, tuning: Tuning) -> anyhow::Result<()> {
        self.tuning.write(tuning).with_context(|| format!("{} cannot be written", self.tuning.path().display()))
    }

    async fn reset_prefix_cache(&self) -> bool {
        let answer = tokio::select! {
            // Known here before vLLM notices, which until then would wait for the dead engine's answer, for ever.
            () = self.lane.gone() => Err("its process ended".to_string()),
            answer = self.call("reset_prefix_cache", String::new()) => answer,
        };
        match answer {
            Ok(done) => done == "true",
            Err(why) => {
                tracing::warn!(engine = %self.id(), "the prefix cache was not reset: {why}");
                false
            }
        }
    }

    async fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, TokenizeError> {
        let engine = self.id();
        let failed = |why: String| TokenizeError::Failed { engine, why };
        let answer = self.call("tokenize", json!([self.model, text]).to_string()).await.map_err(failed)?;
        let tokens: Option<Vec<TokenId>> = serde_json::from_str(&answer).map_err(|error| failed(error.to_string()))?;
        tokens.ok_or(TokenizeError::NoTokenizer { engine })
    }

    /// By SIGKILL: an engine keeps nothing that outlives it, and would take seconds to take itself apart.
    async fn shutdown(&self) {
        self.lane.close();
        self.lane.kill();
        if !self.lane.exited(Duration::from_secs(KILL_S_MAX)).await {
            tracing::error!(engine = %self.id(), "process {:?} is not gone {KILL_S_MAX} s after SIGKILL", self.lane.pid());
        }
        let closed = tokio::time::timeout(Duration::from_secs(CLOSE_S_MAX), self.call("close", String::new())).await;
        if !matches!(closed, Ok(Ok(_))) {
            tracing::warn!(engine = %self.id(), "vLLM did not clean up after the engine: {closed:?}");
        }
    }
}

/// As `shutdown`, without the waiting.
impl Drop for VllmEngine {
    fn drop(&mut self) {
        self.lane.close();
        self.lane.kill();
        // Python's half of the engine goes as well; its answer is not needed.
        let (reply, _) = oneshot::channel();
        self.interpreter.push(Command::Call { key: self.lane.key, method: "close", argument: String::new(), reply });
    }
}
