//! What the real-engine tests share.

pub mod tiny_llama;
