//! Chance, for policies that draw.

use dualpool_types::{PolicyKind, split_mix};

/// A policy's own random numbers: its draws change no other policy's.
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(seed: u64, policy: PolicyKind) -> Draws {
        Draws(xxhash_rust::xxh3::xxh3_64_with_seed(policy.name().as_bytes(), seed))
    }

    /// A number below `count`, each with the same probability (but for less than `count / 2^32`).
    pub(super) fn below(&mut self, count: usize) -> usize {
        (((split_mix(&mut self.0) >> 32) * count as u64) >> 32) as usize
    }

    /// A number from 0 to 1, without 1.
    pub(super) fn share(&mut self) -> f64 {
        (split_mix(&mut self.0) >> 11) as f64 / (1u64 << 53) as f64
    }
}
