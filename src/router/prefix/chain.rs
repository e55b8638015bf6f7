//! Names of prefixes.
//!
//! Each name continues the one before it, so equal names mean equal prompts up to there. A piece of 16 tokens is multiplied down to 64
//! bits on its own, four products that wait for nothing; only one multiplication per piece waits for the name before it. XXH3 with the
//! parent's hash as its seed says the same, and keeps every piece waiting for the whole of the one before: over 4,096 tokens it takes
//! more than twice as long.
//!
//! The names are no defence against prompts made to collide, and need none: an engine compares what it has itself.

use crate::core::TokenId;

use super::search::MILESTONE_BLOCKS;

/// Tokens that are hashed at once; blocks consist of whole pieces.
pub const PIECE_TOKENS: usize = 16;

/// Names the tokens of a prompt from its start to the end of a block. Never 0; the lowest bit says whether it is a milestone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixName(u64);

impl PrefixName {
    /// `blocks`: how many there are before the one that this name ends with.
    fn new(hash: u64, blocks: usize) -> PrefixName {
        let milestone = (blocks + 1).is_multiple_of(MILESTONE_BLOCKS);
        // 0 marks an empty place in tables.
        PrefixName((hash.max(2) & !1) | u64::from(milestone))
    }

    pub(super) fn key(self) -> u64 {
        self.0
    }

    pub(super) fn is_milestone(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Odd numbers without a pattern: the fractional parts of the square roots of the first nine primes. One per pair of tokens, and one for
/// the chain.
const KEYS: [u64; 8] = [
    0x6A09_E667_F3BC_C909,
    0xBB67_AE85_84CA_A73B,
    0x3C6E_F372_FE94_F82B,
    0xA54F_F53A_5F1D_36F1,
    0x510E_527F_ADE6_82D1,
    0x9B05_688C_2B3E_6C1F,
    0x1F83_D9AB_FB41_BD6B,
    0x5BE0_CD19_137E_2179,
];
const CHAIN: u64 = 0xCBBB_9D5D_C105_9ED9;

/// Both halves of the product, one upon the other: every bit of either factor reaches every bit of this.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn digest(piece: &[TokenId; PIECE_TOKENS]) -> u64 {
    let pair = |i: usize| (u64::from(piece[2 * i]) | u64::from(piece[2 * i + 1]) << 32) ^ KEYS[i];
    let product = |i: usize| fold(pair(2 * i), pair(2 * i + 1));
    product(0).wrapping_add(product(1)).wrapping_add(product(2)).wrapping_add(product(3))
}

/// The names of one request's blocks, each computed once: the chain grows with the request's tokens.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    names: Vec<PrefixName>,
    state: u64,
    pieces_per_block: usize,
}

impl Chain {
    /// An empty chain with room for so many tokens. `block_tokens` is a multiple of `PIECE_TOKENS`.
    pub(super) fn new(block_tokens: u32, tokens: usize) -> Chain {
        let pieces_per_block = block_tokens as usize / PIECE_TOKENS;
        Chain { names: Vec::with_capacity(tokens / block_tokens as usize), state: 0, pieces_per_block }
    }

    /// Whether there is nothing to be named: nobody asked for names when the request came.
    pub fn is_off(&self) -> bool {
        self.pieces_per_block == 0
    }

    /// Forgets the names, for another prompt; the memory stays.
    pub fn clear(&mut self) {
        self.names.clear();
        self.state = 0;
    }

    /// Goes on to the last whole block of `prompt` and `outputs` together, which begin with the tokens that are named already.
    pub fn extend(&mut self, prompt: &[TokenId], outputs: &[TokenId]) {
        if self.is_off() {
            return;
        }
        let block_tokens = self.block_tokens();
        let blocks = (prompt.len() + outputs.len()) / block_tokens;
        let of_prompt = prompt.len() / block_tokens;
        if let Some(rest) = prompt.get(self.names.len() * block_tokens..of_prompt * block_tokens) {
            self.names.reserve(blocks.saturating_sub(self.names.len()));
            for block in rest.chunks_exact(block_tokens) {
                let (pieces, _) = block.as_chunks::<PIECE_TOKENS>();
                pieces.iter().for_each(|piece| self.advance(piece));
                self.name();
            }
        }
        while self.names.len() < blocks {
            let start = self.names.len() * block_tokens;
            for piece in 0..self.pieces_per_block {
                let token = |at: usize| prompt.get(at).copied().unwrap_or_else(|| outputs[at - prompt.len()]);
                self.advance(&std::array::from_fn(|i| token(start + piece * PIECE_TOKENS + i)));
            }
            self.name();
        }
    }

    fn advance(&mut self, piece: &[TokenId; PIECE_TOKENS]) {
        self.state = fold(self.state ^ digest(piece), CHAIN);
    }

    fn name(&mut self) {
        self.names.push(PrefixName::new(self.state, self.names.len()));
    }

    fn block_tokens(&self) -> usize {
        self.pieces_per_block * PIECE_TOKENS
    }

    /// The names of the whole blocks among the first so many tokens, as far as they are named.
    pub fn within(&self, tokens: u32) -> &[PrefixName] {
        if self.is_off() {
            return &[];
        }
        &self.names[..self.names.len().min(tokens as usize / self.block_tokens())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn names(block_tokens: u32, prompt: &[TokenId], outputs: &[TokenId]) -> Vec<PrefixName> {
        let mut chain = Chain::new(block_tokens, prompt.len());
        chain.extend(prompt, outputs);
        chain.names
    }

    #[test]
    fn a_name_does_not_depend_on_how_the_tokens_came() {
        let tokens: Vec<TokenId> = (0..300).map(|i| i * 7919 % 50_257).collect();
        for block_tokens in [16, 48, 128] {
            let whole = names(block_tokens, &tokens, &[]);
            assert_eq!(whole.len(), 300 / block_tokens as usize);
            for cut in [0, 1, 15, 16, 17, 144, 299] {
                let (prompt, outputs) = tokens.split_at(cut);
                assert_eq!(names(block_tokens, prompt, outputs), whole, "cut at {cut}");
                let mut chain = Chain::new(block_tokens, 0);
                chain.extend(prompt, &[]);
                for more in 0..=outputs.len() {
                    chain.extend(prompt, &outputs[..more]);
                }
                assert_eq!(chain.names, whole, "token by token from {cut}");
            }
        }
    }

    #[test]
    fn one_other_token_anywhere_changes_the_names_from_there_on() {
        let tokens: Vec<TokenId> = vec![0; 128];
        let plain = names(16, &tokens, &[]);
        let mut seen: HashSet<u64> = plain.iter().map(|name| name.key()).collect();
        assert_eq!(seen.len(), plain.len(), "equal blocks at other places have other names");
        for at in 0..tokens.len() {
            let mut other = tokens.clone();
            other[at] = 1;
            let names = names(16, &other, &[]);
            let first = at / 16;
            assert_eq!(names[..first], plain[..first]);
            for name in &names[first..] {
                assert!(seen.insert(name.key()), "token {at}");
            }
        }
    }

    #[test]
    fn swapped_tokens_pairs_and_blocks_have_other_names() {
        let tokens: Vec<TokenId> = (1..=64).collect();
        let last = |tokens: &[TokenId]| names(16, tokens, &[])[3].key();
        let mut seen = HashSet::from([last(&tokens)]);
        for (a, b) in [(0, 1), (0, 2), (1, 2), (0, 4), (0, 8), (0, 16), (16, 32), (3, 60)] {
            let mut other = tokens.clone();
            other.swap(a, b);
            assert!(seen.insert(last(&other)), "{a} and {b}");
        }
        let mut blocks = tokens.clone();
        blocks.rotate_left(16);
        assert!(seen.insert(last(&blocks)));
    }

    #[test]
    fn a_million_prefixes_have_a_million_names() {
        let mut chain = Chain::new(16, 16 << 20);
        chain.extend(&vec![3; 16 << 20], &[]);
        let distinct: HashSet<u64> = chain.names.iter().map(|name| name.key()).collect();
        assert_eq!(distinct.len(), 1 << 20);
        // Tables take the low bits but one for the place: they must be spread like those of random numbers.
        let mut places = vec![0u8; 1 << 20];
        chain.names.iter().for_each(|name| places[(name.key() >> 1) as usize & ((1 << 20) - 1)] += 1);
        let empty = places.iter().filter(|&&count| count == 0).count() as f64 / f64::from(1 << 20);
        assert!((empty - (-1.0f64).exp()).abs() < 0.01, "{empty} of the places are empty");
    }
}
