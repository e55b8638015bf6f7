//! Seeded randomness. One seed reproduces a whole workload on every platform, which `StdRng` does not promise.

use rand::SeedableRng;

/// The generator used wherever a run must be repeatable.
pub type Rng = rand_chacha::ChaCha8Rng;

/// A generator for one named purpose. Purposes drawn from the same seed are independent of each other, so that adding draws for
/// one (arrivals, say) does not change another (prompts).
pub fn seeded(seed: u64, purpose: &str) -> Rng {
    Rng::seed_from_u64(xxhash_rust::xxh3::xxh3_64_with_seed(purpose.as_bytes(), seed))
}
