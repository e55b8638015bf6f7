//! Which engine's prefix cache holds how much of a prompt.
//!
//! A prompt is cut into blocks; each block has a name that stands for the whole prompt up to its end (`chain`). One table maps a name to
//! the set of engines that hold it (`table`), and each engine has a model of its cache that says what it evicts next (`lru`). Because an
//! engine that holds a block holds all blocks before it, how far each engine gets is found by probing a few positions, and a prompt is
//! named no further than an engine has it (`search`).
//!
//! The index holds beliefs: what the router saw computed, bounded by the size of each cache, and corrected by what engines report. A wrong
//! belief costs time and never a wrong token, for the engine looks for itself.

mod chain;
mod index;
mod lru;
mod search;
mod table;
mod tracker;

#[cfg(test)]
mod literal;

pub use chain::{Chain, Tokens};
pub use index::{CacheShape, PrefixIndex};
pub(crate) use tracker::{Named, PrefixTracker};
