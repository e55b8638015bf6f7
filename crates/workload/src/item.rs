//! One request of a workload.

use std::sync::Arc;

use dualpool_types::{Class, Micros, Objectives, Priority, Request, RequestId, Sampling, Time, TokenId, Turn, Wave};

use super::parameter::{ParameterError, require};

/// More tokens than any request has: such a number is no count of tokens.
pub const TOKENS_MAX: u32 = 1 << 24;

/// One request of a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkItem {
    /// Its place in the order of arrival, counted from 0.
    pub index: u32,
    /// When it arrives, counted from the start of the run.
    pub at: Micros,
    pub prompt: Arc<[TokenId]>,
    /// Output tokens to be made: exactly as many, so that every arm does the same work.
    pub max_tokens: u32,
    pub class: Class,
    pub priority: Priority,
    /// Its place in a conversation, where it belongs to one.
    pub turn: Option<Turn>,
    /// Its wave, where the workload comes in waves: figures are told apart by it.
    pub wave: Option<Wave>,
}

impl WorkItem {
    /// A request of ordinary priority that belongs to no conversation and to no wave.
    pub fn new(index: u32, at: Micros, prompt: Arc<[TokenId]>, max_tokens: u32, class: Class) -> WorkItem {
        WorkItem { index, at, prompt, max_tokens, class, priority: Priority::default(), turn: None, wave: None }
    }

    /// What is asked of a router, numbered by its place, and when. Its answer ends where the workload says: a model's own end would shorten it.
    pub fn asked(self, objectives: Objectives) -> (Time, Request) {
        let WorkItem { index, at, prompt, max_tokens, class, priority, .. } = self;
        let (id, sampling) = (RequestId(index.into()), Sampling::default());
        (Time(at.0), Request { id, prompt, max_tokens, ignore_eos: true, sampling, class, priority, objectives })
    }
}

/// What the model puts a bound on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// Token ids are below this.
    pub vocab_size: u32,
    /// Prompt and output together have at most as many tokens.
    pub max_model_len: u32,
}

impl ModelLimits {
    pub(super) fn check(&self) -> Result<(), ParameterError> {
        let ModelLimits { vocab_size, max_model_len } = *self;
        require("vocab_size", vocab_size, vocab_size >= 2, "at least 2")?;
        let expected = format!("from 2 (a token of prompt and one of output) to {TOKENS_MAX}");
        require("max_model_len", max_model_len, (2..=TOKENS_MAX).contains(&max_model_len), expected)
    }
}
