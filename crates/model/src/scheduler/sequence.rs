//! A leg on a modelled engine.

use dualpool_types::{Leg, LegId, TokenId};

use super::super::text::Fingerprint;
use super::blocks::{BlockPool, Place};

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SequenceState {
    /// Has no blocks.
    Waiting,
    /// Has blocks and waits for their KV.
    Fetching,
    /// Has its KV and waits for a seat.
    Fetched,
    Running,
    /// Its end is on its way out.
    Over,
}

pub(super) struct Sequence {
    pub leg: Leg,
    pub state: SequenceState,
    /// Prompt tokens whose KV is there.
    pub computed: u32,
    prompt_tokens: u32,
    /// Output tokens given, and the last of them.
    pub given: u32,
    pub last: TokenId,
    pub kv: Fingerprint,
    /// Blocks with KV in them, in order, and how many more it was promised.
    pub blocks: Vec<Place>,
    promised: u32,
    /// Prompt tokens that were fetched or found.
    pub cached: u32,
    /// The full blocks at the prompt's start that were found in the cache when last looked for: it goes on from there.
    looked: Vec<Fingerprint>,
}

impl Sequence {
    pub(super) fn new(leg: Leg) -> Sequence {
        Sequence {
            prompt_tokens: leg.prompt.len() as u32,
            leg,
            state: SequenceState::Waiting,
            computed: 0,
            given: 0,
            last: 0,
            kv: Fingerprint::EMPTY,
            blocks: Vec::new(),
            promised: 0,
            cached: 0,
            looked: Vec::new(),
        }
    }

    pub(super) fn is(&self, leg: LegId) -> bool {
        self.leg.id == leg
    }

    pub(super) fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    pub(super) fn prompt_left(&self) -> u32 {
        self.prompt_tokens - self.computed
    }

    /// Tokens whose KV is there: the last output's is not.
    pub(super) fn kv_tokens(&self) -> u32 {
        self.computed + self.given.saturating_sub(1)
    }

    /// Finds room: the blocks that the cache has of its prompt, and a promise of all others it may come to need.
    pub(super) fn admit(&mut self, pool: &mut BlockPool, block_size: u32) -> bool {
        let all = (self.prompt_tokens + self.leg.max_tokens).div_ceil(block_size);
        let mut hits = std::mem::take(&mut self.blocks);
        if pool.caching() && self.leg.kv_source.is_none() {
            self.look_up(pool, block_size, &mut hits);
        }
        let more = all - hits.len() as u32;
        if !pool.admit(&hits, more) {
            hits.clear();
            self.blocks = hits;
            return false;
        }
        self.promised = more;
        self.computed = hits.len() as u32 * block_size;
        self.cached = self.computed;
        self.kv = hits.len().checked_sub(1).map_or(Fingerprint::EMPTY, |last| self.looked[last]);
        self.blocks = hits;
        self.looked = Vec::new();
        true
    }

    fn look_up(&mut self, pool: &BlockPool, block_size: u32, hits: &mut Vec<Place>) {
        // At least the last token is computed, for there is no output without it.
        let most = (self.prompt_tokens - 1) / block_size;
        for block in 0..most as usize {
            let print = self.looked.get(block).copied().unwrap_or_else(|| {
                let from = block * block_size as usize;
                let before = block.checked_sub(1).map_or(Fingerprint::EMPTY, |before| self.looked[before]);
                let print = before.extend(&self.leg.prompt[from..from + block_size as usize]);
                self.looked.push(print);
                print
            });
            match pool.find(print) {
                Some(place) => hits.push(place),
                None => break,
            }
        }
    }

    /// Computes so many prompt tokens.
    pub(super) fn compute(&mut self, tokens: u32, pool: &mut BlockPool, block_size: u32) {
        let (mut at, end) = (self.computed, self.computed + tokens);
        self.make_room(end, pool, block_size);
        while at < end {
            let block = at / block_size;
            let to = end.min((block + 1) * block_size);
            self.kv = self.kv.extend(&self.leg.prompt[at as usize..to as usize]);
            if to.is_multiple_of(block_size) {
                pool.fill(self.blocks[block as usize], self.kv);
            }
            at = to;
        }
        self.computed = end;
    }

    /// Computes the KV of its last output token.
    pub(super) fn decode(&mut self, pool: &mut BlockPool, block_size: u32) {
        // The token counts as one with KV from its follower on.
        let tokens = self.kv_tokens() + 1;
        self.make_room(tokens, pool, block_size);
        self.kv = self.kv.push(self.last);
        if tokens.is_multiple_of(block_size) {
            pool.fill(self.blocks[(tokens / block_size) as usize - 1], self.kv);
        }
    }

    /// Takes the KV of the first tokens of its prompt from elsewhere.
    pub(super) fn take_fetched(&mut self, kv: Fingerprint, tokens: u32, pool: &mut BlockPool, block_size: u32) {
        let tokens = tokens.min(self.prompt_tokens - 1);
        self.make_room(tokens, pool, block_size);
        (self.kv, self.computed, self.cached) = (kv, tokens, tokens);
        if !pool.caching() {
            return;
        }
        let prompt = &self.leg.prompt[..tokens as usize];
        let mut prints = Vec::with_capacity(self.blocks.len());
        let end = prompt.chunks(block_size as usize).fold(Fingerprint::EMPTY, |before, block| {
            prints.push(before.extend(block));
            prints[prints.len() - 1]
        });
        // Others may find it here only if it is what it says.
        if end == kv {
            for (&place, &print) in self.blocks.iter().zip(&prints).take((tokens / block_size) as usize) {
                pool.fill(place, print);
            }
        }
    }

    /// Has blocks for the KV of so many tokens. They were promised.
    fn make_room(&mut self, tokens: u32, pool: &mut BlockPool, block_size: u32) {
        while (self.blocks.len() as u32) * block_size < tokens {
            self.blocks.push(pool.take());
            self.promised -= 1;
        }
    }

    /// Gives up what it was promised and did not need.
    pub(super) fn forgo(&mut self, pool: &mut BlockPool) {
        pool.forgo(std::mem::take(&mut self.promised));
    }
}
