//! Seeded randomness. One seed reproduces a whole workload on every platform, which `StdRng` does not promise.

use rand::SeedableRng;

/// The generator used wherever a run must be repeatable.
pub type Rng = rand_chacha::ChaCha8Rng;

/// A generator for one named purpose. Purposes drawn from the same seed are independent of each other, so that adding draws for
/// one (arrivals, say) does not change another (prompts).
pub fn seeded(seed: u64, purpose: &str) -> Rng {
    Rng::seed_from_u64(xxhash_rust::xxh3::xxh3_64_with_seed(purpose.as_bytes(), seed))
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): for numbers that are drawn by the hundred
/// million, or within a microsecond.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
