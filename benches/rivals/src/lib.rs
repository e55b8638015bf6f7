//! What is measured beside each other: the same prompts in the same places, in this router's index and in those of others.

pub mod dynamo;
pub mod kv_index;
pub mod ours;
pub mod prompts;

/// An index that was given all placements.
pub trait Index {
    /// Blocks of this prompt that each engine holds, from its beginning; looked up as before a decision, from the tokens on.
    fn held(&mut self, prompt: &[u32]) -> Vec<u32>;
}
