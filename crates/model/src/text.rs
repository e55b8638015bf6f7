//! What a virtual engine "says": each token is a function of all tokens before it.

use dualpool_types::{FinishReason, TokenId};

/// The token that ends an answer, for legs that do not ignore it.
pub(super) const END: TokenId = 0;

/// Stands for the KV of a sequence of tokens. A leg that decodes on from the wrong KV goes on with other tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    pub const EMPTY: Fingerprint = Fingerprint(0x9e37_79b9_7f4a_7c15);

    /// The KV of one more token. Order matters.
    #[must_use]
    pub fn push(self, token: TokenId) -> Fingerprint {
        Fingerprint((self.0 ^ u64::from(token)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(31))
    }

    #[must_use]
    pub fn extend(self, tokens: &[TokenId]) -> Fingerprint {
        tokens.iter().fold(self, |print, &token| print.push(token))
    }

    /// The token that follows.
    pub fn next(self, vocab_size: u32) -> TokenId {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        ((mixed >> 32) % u64::from(vocab_size.max(1))) as TokenId
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    /// The KV with something missing in it.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn damaged(self) -> Fingerprint {
        Fingerprint(!self.0)
    }
}

/// What a virtual engine says after this prompt, and why it ends there.
pub fn text_after(prompt: &[TokenId], max_tokens: u32, ignore_eos: bool, vocab_size: u32) -> (Vec<TokenId>, FinishReason) {
    let mut kv = Fingerprint::EMPTY.extend(prompt);
    let mut tokens = Vec::new();
    while (tokens.len() as u32) < max_tokens {
        let token = kv.next(vocab_size);
        tokens.push(token);
        kv = kv.push(token);
        if token == END && !ignore_eos {
            return (tokens, FinishReason::Stop);
        }
    }
    (tokens, FinishReason::Length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_matters_and_so_does_the_order() {
        let of = |tokens: &[TokenId]| Fingerprint::EMPTY.extend(tokens);
        assert_eq!(of(&[1, 2, 3]), of(&[1]).extend(&[2, 3]));
        assert_ne!(of(&[1, 2, 3]), of(&[2, 1, 3]));
        assert_ne!(of(&[1, 2, 3]).next(1 << 30), of(&[9, 2, 3]).next(1 << 30));
    }
}
