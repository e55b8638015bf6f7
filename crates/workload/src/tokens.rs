//! Prompts from names. A name always gives the same tokens and two names give different ones, so that prompts share a prefix exactly
//! where their names say so - without a table of what was given before, which would grow with the trace.
//!
//! Not the seeded ChaCha of everything else: a long trace has hundreds of millions of prompt tokens, and nothing about them matters
//! but that they differ. SplitMix64 makes two tokens with one multiplication chain.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use dualpool_types::{TokenId, split_mix};

/// Token ids below this are left out of prompts: that is where vocabularies keep their special tokens.
const SPECIAL_TOKENS: u32 = 64;

/// The ids that prompts are made of.
pub(super) fn ordinary_tokens(vocab_size: u32) -> std::ops::Range<TokenId> {
    SPECIAL_TOKENS.min(vocab_size / 2)..vocab_size
}

/// What a stretch of a prompt is the text of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// A block of a trace, by its hash id.
    Block(u64),
    /// What one request alone says.
    Request(u64),
    /// A system prompt that sessions share.
    System(u64),
    /// What is said in one turn of a session, question and answer.
    Turn { session: u64, turn: u32 },
}

/// Writes texts in a model's vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    first: TokenId,
    count: u64,
    seed: u64,
}

impl Writer {
    pub(crate) fn new(vocab_size: u32, seed: u64) -> Writer {
        let ids = ordinary_tokens(vocab_size);
        Writer { first: ids.start, count: u64::from(ids.end - ids.start), seed }
    }

    /// Appends the first `length` tokens of a text.
    pub(crate) fn append(&self, prompt: &mut Vec<TokenId>, text: Text, length: usize) {
        let mut state = self.start(text);
        prompt.reserve(length);
        for _ in 0..length / 2 {
            let bits = split_mix(&mut state);
            prompt.extend([self.token(bits >> 32), self.token(bits & 0xffff_ffff)]);
        }
        if length % 2 == 1 {
            prompt.push(self.token(split_mix(&mut state) >> 32));
        }
    }

    fn start(&self, text: Text) -> u64 {
        let (kind, a, b) = match text {
            Text::Block(id) => (0, id, 0),
            Text::Request(id) => (1, id, 0),
            Text::System(id) => (2, id, 0),
            Text::Turn { session, turn } => (3, session, turn),
        };
        let mut name = [0; 13];
        name[0] = kind;
        name[1..9].copy_from_slice(&a.to_le_bytes());
        name[9..].copy_from_slice(&b.to_le_bytes());
        xxh3_64_with_seed(&name, self.seed)
    }

    /// 32 random bits as a token: a multiplication in place of a division.
    fn token(&self, bits: u64) -> TokenId {
        self.first + ((bits * self.count) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(writer: &Writer, text: Text, length: usize) -> Vec<TokenId> {
        let mut prompt = Vec::new();
        writer.append(&mut prompt, text, length);
        prompt
    }

    #[test]
    fn a_text_begins_alike_however_much_of_it_is_written() {
        let writer = Writer::new(49_152, 1);
        let whole = text(&writer, Text::Block(7), 513);
        for length in [0, 1, 2, 255, 512, 513] {
            assert_eq!(text(&writer, Text::Block(7), length), whole[..length]);
        }
    }

    #[test]
    fn names_kinds_and_seeds_give_different_texts() {
        let writer = Writer::new(49_152, 1);
        let turn = |session, turn| Text::Turn { session, turn };
        let names = [Text::Block(7), Text::Block(8), Text::Request(7), Text::System(7), turn(7, 0), turn(7, 1), turn(8, 0)];
        let mut texts: Vec<_> = names.iter().map(|&name| text(&writer, name, 8)).collect();
        texts.push(text(&Writer::new(49_152, 2), Text::Block(7), 8));
        let count = texts.len();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), count);
    }

    #[test]
    fn tokens_are_ordinary_ones_and_all_of_them_occur() {
        for vocab_size in [2, 32, 200] {
            let mut tokens = text(&Writer::new(vocab_size, 3), Text::Request(0), 20_000);
            tokens.sort();
            tokens.dedup();
            assert_eq!(tokens, ordinary_tokens(vocab_size).collect::<Vec<_>>());
        }
    }
}
