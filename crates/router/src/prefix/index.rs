//! All engines' caches in one.

use dualpool_types::EngineId;

use super::chain::{Chain, PIECE_TOKENS, PrefixName, Tokens};
use super::lru::{Lru, Touched};
use super::search::{Holders, MILESTONE_BLOCKS, search};
use super::table::Table;

/// Engines that one table tells apart: the bits of its values.
const GROUP: usize = 64;

/// One engine's prefix cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Tokens per block; 0 when the engine caches no prefixes.
    pub block_tokens: u32,
    /// Tokens whose KV fits into the engine.
    pub kv_tokens: u64,
}

/// Of up to 64 engines: from a prefix to the set of those that hold it.
struct Group {
    milestones: Table,
    others: Table,
}

impl Group {
    fn new(blocks_max: usize) -> Group {
        // There are more milestones when many prompts diverge just before one; then their table grows, at most to the size of the other.
        Group { milestones: Table::new(blocks_max / MILESTONE_BLOCKS), others: Table::new(blocks_max) }
    }

    fn table(&self, name: PrefixName) -> &Table {
        if name.is_milestone() { &self.milestones } else { &self.others }
    }

    fn change(&mut self, name: PrefixName, change: impl FnOnce(u64) -> u64) {
        let holders = change(self.table(name).get(name.key()));
        let table = if name.is_milestone() { &mut self.milestones } else { &mut self.others };
        table.set(name.key(), holders);
    }
}

/// One prompt before one group; named as far as it is asked for.
struct Asked<'a> {
    group: &'a Group,
    chain: &'a mut Chain,
    tokens: Tokens<'a>,
}

impl Asked<'_> {
    fn name(&mut self, block: usize) -> PrefixName {
        if let Some(name) = self.chain.name(block) {
            return name;
        }
        self.chain.extend_to(block + 1, self.tokens);
        self.chain.name(block).expect("it was just named")
    }
}

impl Holders for Asked<'_> {
    fn of(&mut self, block: usize) -> u64 {
        let name = self.name(block);
        self.group.table(name).get(name.key())
    }

    fn announce(&mut self, block: usize) {
        let name = self.name(block);
        self.group.table(name).prefetch(name.key());
    }
}

/// What the engines' prefix caches are believed to hold.
///
/// Its memory is bounded: `blocks_max` blocks over all engines, at no more than 224 bytes each, taken as they come.
pub struct PrefixIndex {
    block_tokens: u32,
    groups: Vec<Group>,
    /// By engine; none for one that caches no prefixes.
    caches: Vec<Option<Lru>>,
}

impl PrefixIndex {
    /// An index over these engines. `block_tokens` 0 stands for the engines' own block size: where they differ the largest, so that
    /// no engine is believed to have cached what is no whole block to it.
    pub fn new(engines: &[CacheShape], block_tokens: u32, blocks_max: u32) -> PrefixIndex {
        let own = engines.iter().map(|engine| engine.block_tokens).max().unwrap_or(0);
        let block_tokens = if block_tokens > 0 { block_tokens } else { own };
        let block_tokens = block_tokens.max(1).next_multiple_of(PIECE_TOKENS as u32);
        let caching = engines.iter().filter(|engine| engine.block_tokens > 0).count() as u32;
        let cache = |engine: &CacheShape| {
            let part = u64::from(blocks_max / caching.max(1));
            let blocks = (engine.kv_tokens / u64::from(block_tokens)).min(part);
            (engine.block_tokens > 0).then(|| Lru::new(blocks as u32))
        };
        let caches: Vec<Option<Lru>> = engines.iter().map(cache).collect();
        let blocks = |group: &[Option<Lru>]| group.iter().flatten().map(|cache| cache.blocks_max() as usize).sum();
        let groups = caches.chunks(GROUP).map(|group| Group::new(blocks(group))).collect();
        PrefixIndex { block_tokens, groups, caches }
    }

    pub fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// An empty chain for a request of at most so many tokens.
    pub fn chain(&self, tokens_max: u32) -> Chain {
        Chain::new(self.block_tokens, tokens_max as usize)
    }

    /// Blocks that this engine is believed to hold.
    pub fn blocks(&self, engine: EngineId) -> u32 {
        self.caches.get(engine.index()).and_then(Option::as_ref).map_or(0, Lru::len)
    }

    /// How many of these tokens each engine need not compute, by engine. The last token of a prompt always is computed, and only whole
    /// blocks are cached.
    pub fn cached(&self, chain: &mut Chain, tokens: Tokens<'_>, cached: &mut [u32]) {
        cached.fill(0);
        for (group, cached) in self.groups.iter().zip(cached.chunks_mut(GROUP)) {
            let all = u64::MAX >> (GROUP - cached.len());
            self.look_up(group, all, chain, tokens, |engine, tokens| cached[engine] = tokens);
        }
    }

    /// The same of one engine.
    pub fn cached_on(&self, engine: EngineId, chain: &mut Chain, tokens: Tokens<'_>) -> u32 {
        let Some(group) = self.groups.get(engine.index() / GROUP) else { return 0 };
        let mut cached = 0;
        self.look_up(group, 1 << (engine.index() % GROUP), chain, tokens, |_, tokens| cached = tokens);
        cached
    }

    fn look_up(&self, group: &Group, all: u64, chain: &mut Chain, tokens: Tokens<'_>, mut found: impl FnMut(usize, u32)) {
        if chain.is_off() {
            return;
        }
        let block_tokens = self.block_tokens as usize;
        let blocks = tokens.len() / block_tokens;
        let usable = tokens.len().saturating_sub(1) / block_tokens;
        let mut asked = Asked { group, chain, tokens };
        search(blocks, all, &mut asked, |engine, held| found(engine, (held.min(usable) * block_tokens) as u32));
    }

    /// The engine holds the KV of the first so many tokens now, and has just used it.
    pub fn used(&mut self, engine: EngineId, chain: &Chain, tokens: u32) {
        let at = engine.index();
        let Some(Some(cache)) = self.caches.get_mut(at) else { return };
        let (group, bit) = (&mut self.groups[at / GROUP], 1 << (at % GROUP));
        let names = chain.within(tokens);
        // Of a chain longer than the cache the end is evicted by its own beginning.
        for name in names.take(cache.blocks_max() as usize).rev() {
            if let Touched::Added { evicted } = cache.touch(name) {
                if let Some(evicted) = evicted {
                    group.change(evicted, |holders| holders & !bit);
                }
                group.change(name, |holders| holders | bit);
            }
        }
    }

    /// The engine had only the first so many tokens of those that it was believed to have. It evicts in the order of last use, so with
    /// the first block that is missing it has evicted all that was used before it.
    pub fn missing_from(&mut self, engine: EngineId, chain: &Chain, tokens: u32) {
        let at = engine.index();
        let Some(Some(cache)) = self.caches.get_mut(at) else { return };
        let Some(first) = chain.name((tokens / self.block_tokens) as usize) else { return };
        if cache.holds(first) {
            let (group, bit) = (&mut self.groups[at / GROUP], 1 << (at % GROUP));
            while let Some(evicted) = cache.evict() {
                group.change(evicted, |holders| holders & !bit);
                if evicted == first {
                    break;
                }
            }
        }
    }

    /// The engine's cache is empty.
    pub fn clear(&mut self, engine: EngineId) {
        let at = engine.index();
        let Some(Some(cache)) = self.caches.get_mut(at) else { return };
        let (group, bit) = (&mut self.groups[at / GROUP], 1 << (at % GROUP));
        while let Some(evicted) = cache.evict() {
            group.change(evicted, |holders| holders & !bit);
        }
    }
}
