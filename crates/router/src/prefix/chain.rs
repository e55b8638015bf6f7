//! Names of prefixes.
//!
//! Each name continues the one before it, so equal names mean equal prompts up to there. A piece of 16 tokens is eight words; three
//! products of two of them wait for nothing, and the fourth one takes these and the name before in. So one multiplication per piece
//! waits for the piece before it. XXH3 with the parent's hash as its seed says the same, and keeps every piece waiting for the whole of
//! the one before.
//!
//! Names have 63 bits of hash: among a million blocks, a prompt that no engine has is taken for one of them with a probability of 2^-43.
//! They are no defence against prompts made to collide, and need none: an engine compares what it has itself. They are stored nowhere.

use dualpool_types::TokenId;

use super::search::MILESTONE_BLOCKS;

/// Tokens that are hashed at once; blocks consist of whole pieces.
pub(super) const PIECE_TOKENS: usize = 16;

/// Names the tokens of a prompt from its start to the end of a block. Never 0; the lowest bit says whether it is a milestone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PrefixName(u64);

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

/// Numbers without a pattern: the fractional parts of the square roots of the first eight primes. One per pair of tokens.
const KEYS: [u64; PIECE_TOKENS / 2] = [
    0x6A09_E667_F3BC_C908,
    0xBB67_AE85_84CA_A73B,
    0x3C6E_F372_FE94_F82B,
    0xA54F_F53A_5F1D_36F1,
    0x510E_527F_ADE6_82D1,
    0x9B05_688C_2B3E_6C1F,
    0x1F83_D9AB_FB41_BD6B,
    0x5BE0_CD19_137E_2179,
];

/// Both halves of the product, one upon the other: every bit of either factor reaches every bit of this.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The hash of a prompt that ends with this piece, from that of the prompt before it.
fn after(hash: u64, piece: &[TokenId; PIECE_TOKENS]) -> u64 {
    let word = |i: usize| (u64::from(piece[2 * i]) | u64::from(piece[2 * i + 1]) << 32) ^ KEYS[i];
    let own = fold(word(0), word(1)).wrapping_add(fold(word(2), word(3))).wrapping_add(fold(word(4), word(5)));
    fold(word(6) ^ hash, word(7) ^ own)
}

/// What a request consists of.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    pub prompt: &'a [TokenId],
    pub outputs: &'a [TokenId],
}

impl Tokens<'_> {
    pub(super) fn len(self) -> usize {
        self.prompt.len() + self.outputs.len()
    }

    fn at(self, at: usize) -> TokenId {
        self.prompt.get(at).copied().unwrap_or_else(|| self.outputs[at - self.prompt.len()])
    }
}

/// The names of one request's blocks, each computed once and when it is first needed: the chain grows with what is asked of it.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// By block: the hash of all up to its end.
    hashes: Vec<u64>,
    pieces_per_block: usize,
}

impl Chain {
    /// An empty chain with room for so many tokens. `block_tokens` is a multiple of `PIECE_TOKENS`.
    pub(super) fn new(block_tokens: u32, tokens: usize) -> Chain {
        Chain { hashes: Vec::with_capacity(tokens / block_tokens as usize), pieces_per_block: block_tokens as usize / PIECE_TOKENS }
    }

    /// Whether there is nothing to be named: caches were not followed when the request came.
    pub fn is_off(&self) -> bool {
        self.pieces_per_block == 0
    }

    /// Forgets the names, for another prompt; the memory stays.
    pub fn clear(&mut self) {
        self.hashes.clear();
    }

    /// Names all whole blocks of these tokens, which begin with those that are named already.
    pub fn extend(&mut self, tokens: Tokens<'_>) {
        if !self.is_off() {
            self.extend_to(tokens.len() / self.block_tokens(), tokens);
        }
    }

    /// Names so many of them.
    pub(super) fn extend_to(&mut self, blocks: usize, tokens: Tokens<'_>) {
        let block_tokens = self.block_tokens();
        let mut hash = self.hashes.last().copied().unwrap_or(0);
        let of_prompt = blocks.min(tokens.prompt.len() / block_tokens);
        if let Some(rest) = tokens.prompt.get(self.hashes.len() * block_tokens..of_prompt * block_tokens) {
            self.hashes.extend(rest.chunks_exact(block_tokens).map(|block| {
                let (pieces, _) = block.as_chunks::<PIECE_TOKENS>();
                hash = pieces.iter().fold(hash, after);
                hash
            }));
        }
        for start in (self.hashes.len()..blocks).map(|block| block * block_tokens) {
            for piece in (start..start + block_tokens).step_by(PIECE_TOKENS) {
                hash = after(hash, &std::array::from_fn(|i| tokens.at(piece + i)));
            }
            self.hashes.push(hash);
        }
    }

    fn block_tokens(&self) -> usize {
        self.pieces_per_block * PIECE_TOKENS
    }

    /// The name of this block, if it was named.
    pub(super) fn name(&self, block: usize) -> Option<PrefixName> {
        self.hashes.get(block).map(|&hash| PrefixName::new(hash, block))
    }

    /// The names of the whole blocks among the first so many tokens, as far as they are named.
    pub(super) fn within(&self, tokens: u32) -> impl DoubleEndedIterator<Item = PrefixName> + ExactSizeIterator {
        let blocks = if self.is_off() { 0 } else { self.hashes.len().min(tokens as usize / self.block_tokens()) };
        self.hashes[..blocks].iter().enumerate().map(|(block, &hash)| PrefixName::new(hash, block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn names(block_tokens: u32, prompt: &[TokenId], outputs: &[TokenId]) -> Vec<PrefixName> {
        let mut chain = Chain::new(block_tokens, prompt.len());
        chain.extend(Tokens { prompt, outputs });
        chain.within(u32::MAX).collect()
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
                for more in 0..=outputs.len() {
                    chain.extend(Tokens { prompt, outputs: &outputs[..more] });
                }
                assert!(chain.within(u32::MAX).eq(whole.iter().copied()), "token by token from {cut}");
                chain.clear();
                for blocks in 0..=whole.len() {
                    chain.extend_to(blocks, Tokens { prompt, outputs });
                    assert!(chain.within(u32::MAX).eq(whole[..blocks].iter().copied()), "block by block, cut at {cut}");
                }
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
        let names = names(16, &vec![3; 16 << 20], &[]);
        let distinct: HashSet<u64> = names.iter().map(|name| name.key()).collect();
        assert_eq!(distinct.len(), 1 << 20);
        // Tables take the low bits but one for the place: they must be spread like those of random numbers.
        let mut places = vec![0u8; 1 << 20];
        names.iter().for_each(|name| places[(name.key() >> 1) as usize & ((1 << 20) - 1)] += 1);
        let empty = places.iter().filter(|&&count| count == 0).count() as f64 / f64::from(1 << 20);
        assert!((empty - (-1.0f64).exp()).abs() < 0.01, "{empty} of the places are empty");
    }
}
