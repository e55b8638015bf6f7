//! The index as one would say it: each engine has a list of prefixes, the newest last. Slow, and too plain to be wrong; the index must
//! say the same.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use dualpool_types::{EngineId, TokenId};

use super::{CacheShape, Chain, PrefixIndex, Tokens};

const BLOCK: usize = 16;

#[derive(Default)]
struct Literal {
    holders: HashMap<Vec<TokenId>, HashSet<usize>>,
    order: Vec<Vec<Vec<TokenId>>>,
    blocks_max: Vec<usize>,
}

impl Literal {
    fn prefixes(tokens: &[TokenId]) -> Vec<Vec<TokenId>> {
        (1..=tokens.len() / BLOCK).map(|blocks| tokens[..blocks * BLOCK].to_vec()).collect()
    }

    fn used(&mut self, engine: usize, tokens: &[TokenId]) {
        let prefixes = Literal::prefixes(tokens);
        for prefix in prefixes.iter().take(self.blocks_max[engine]).rev() {
            self.order[engine].retain(|other| other != prefix);
            if self.order[engine].len() == self.blocks_max[engine] {
                self.evict(engine);
            }
            self.order[engine].push(prefix.clone());
            self.holders.entry(prefix.clone()).or_default().insert(engine);
        }
    }

    fn evict(&mut self, engine: usize) -> Vec<TokenId> {
        let prefix = self.order[engine].remove(0);
        self.holders.get_mut(&prefix).unwrap().remove(&engine);
        prefix
    }

    fn missing_from(&mut self, engine: usize, tokens: &[TokenId], present: usize) {
        let Some(first) = Literal::prefixes(tokens).into_iter().nth(present / BLOCK) else { return };
        if self.order[engine].contains(&first) {
            while self.evict(engine) != first {}
        }
    }

    fn clear(&mut self, engine: usize) {
        while !self.order[engine].is_empty() {
            self.evict(engine);
        }
    }

    fn cached(&self, engine: usize, tokens: &[TokenId]) -> u32 {
        let usable = &tokens[..tokens.len().saturating_sub(1)];
        let held = |prefix: &&Vec<TokenId>| self.holders.get(*prefix).is_some_and(|holders| holders.contains(&engine));
        (Literal::prefixes(usable).iter().take_while(held).count() * BLOCK) as u32
    }
}

#[derive(Clone, Debug)]
enum Step {
    Used { engine: usize, prompt: Vec<u8>, rest: usize },
    Missing { engine: usize, prompt: Vec<u8>, present: usize },
    Clear { engine: usize },
}

/// A prompt by its blocks: few kinds of them, so that prompts share beginnings. The rest does not fill a block.
fn tokens(blocks: &[u8], rest: usize) -> Vec<TokenId> {
    let block = |&kind: &u8| (0..BLOCK as TokenId).map(move |i| TokenId::from(kind) * 1000 + i);
    blocks.iter().flat_map(block).chain(std::iter::repeat_n(9, rest)).collect()
}

fn prompt() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![4 => Just(0u8), 1 => 1u8..3], 0..24)
}

fn step(engines: usize) -> impl Strategy<Value = Step> {
    let used = (0..engines, prompt(), 0..BLOCK).prop_map(|(engine, prompt, rest)| Step::Used { engine, prompt, rest });
    let missing =
        (0..engines, prompt(), 0..400usize).prop_map(|(engine, prompt, present)| Step::Missing { engine, prompt, present });
    prop_oneof![12 => used, 2 => missing, 1 => (0..engines).prop_map(|engine| Step::Clear { engine })]
}

fn prompt_only(prompt: &[TokenId]) -> Tokens<'_> {
    Tokens { prompt, outputs: &[] }
}

fn chain(index: &PrefixIndex, tokens: &[TokenId]) -> Chain {
    let mut chain = index.chain(tokens.len() as u32);
    chain.extend(prompt_only(tokens));
    chain
}

fn check(shapes: &[CacheShape], steps: &[Step], asked: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let mut index = PrefixIndex::new(shapes, 0, u32::MAX);
    let blocks_max = |shape: &CacheShape| if shape.block_tokens > 0 { (shape.kv_tokens as usize / BLOCK).max(1) } else { 0 };
    let mut literal = Literal {
        order: vec![Vec::new(); shapes.len()],
        blocks_max: shapes.iter().map(blocks_max).collect(),
        ..Literal::default()
    };
    let mut cached = vec![0; shapes.len()];
    for step in steps {
        match step {
            Step::Used { engine, prompt, rest } => {
                let tokens = tokens(prompt, *rest);
                index.used(EngineId(*engine as u16), &chain(&index, &tokens), tokens.len() as u32);
                literal.used(*engine, &tokens);
            }
            Step::Missing { engine, prompt, present } => {
                let (tokens, id) = (tokens(prompt, 0), EngineId(*engine as u16));
                // Named no further than the look-up went, as are those of a request whose engine has less than was believed.
                let mut names = index.chain(tokens.len() as u32);
                if index.cached_on(id, &mut names, prompt_only(&tokens)) <= *present as u32 {
                    names = chain(&index, &tokens);
                }
                index.missing_from(id, &names, *present as u32);
                literal.missing_from(*engine, &tokens, *present);
            }
            Step::Clear { engine } => {
                index.clear(EngineId(*engine as u16));
                literal.clear(*engine);
            }
        }
        for (asked, rest) in asked.iter().zip([0, 1, 15].into_iter().cycle()) {
            let tokens = tokens(asked, rest);
            let (prompt, outputs) = tokens.split_at(tokens.len() / 2);
            let mut names = index.chain(tokens.len() as u32);
            index.cached(&mut names, Tokens { prompt, outputs }, &mut cached);
            for (engine, &cached) in cached.iter().enumerate() {
                prop_assert_eq!(cached, literal.cached(engine, &tokens), "engine {} after {:?}", engine, step);
                let id = EngineId(engine as u16);
                prop_assert_eq!(cached, index.cached_on(id, &mut names, prompt_only(&tokens)));
                prop_assert_eq!(cached, index.cached_on(id, &mut chain(&index, &tokens), prompt_only(&tokens)));
                prop_assert_eq!(index.blocks(id) as usize, literal.order[engine].len());
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn says_what_the_literal_one_says(
        steps in prop::collection::vec(step(4), 1..60),
        asked in prop::collection::vec(prompt(), 3..6),
        sizes in prop::collection::vec(1u64..40, 4),
    ) {
        let shapes: Vec<CacheShape> =
            sizes.iter().map(|blocks| CacheShape { block_tokens: BLOCK as u32, kv_tokens: blocks * BLOCK as u64 }).collect();
        check(&shapes, &steps, &asked)?;
    }

    /// More engines than one table tells apart, and one that caches nothing.
    #[test]
    fn says_so_of_more_than_64_engines(
        steps in prop::collection::vec(step(130), 1..40),
        asked in prop::collection::vec(prompt(), 3..4),
    ) {
        let mut shapes = vec![CacheShape { block_tokens: BLOCK as u32, kv_tokens: 320 }; 130];
        shapes[65].block_tokens = 0;
        check(&shapes, &steps, &asked)?;
    }
}

#[test]
fn what_was_used_last_stays_and_the_end_of_a_prompt_goes_first() {
    let shape = CacheShape { block_tokens: 16, kv_tokens: 4 * 16 };
    let mut index = PrefixIndex::new(&[shape], 0, 100);
    let engine = EngineId(0);
    let prompts = [tokens(&[1, 1, 1], 1), tokens(&[2, 2, 2], 1)];
    prompts.iter().for_each(|prompt| index.used(engine, &chain(&index, prompt), 49));
    assert_eq!(prompts.map(|prompt| index.cached_on(engine, &mut index.chain(49), prompt_only(&prompt))), [16, 48]);
    assert_eq!(index.blocks(engine), 4);
}

#[test]
fn the_bound_is_shared_out_between_the_engines() {
    let shape = CacheShape { block_tokens: 16, kv_tokens: 1 << 20 };
    let off = CacheShape { block_tokens: 0, ..shape };
    let mut index = PrefixIndex::new(&[shape, off, shape], 0, 20);
    let tokens: Vec<TokenId> = (0..1600).collect();
    let chain = chain(&index, &tokens);
    (0..3).for_each(|engine| index.used(EngineId(engine), &chain, 1600));
    assert_eq!([0, 1, 2].map(|engine| index.blocks(EngineId(engine))), [10, 0, 10]);
}

#[test]
fn blocks_of_any_size_are_whole_pieces() {
    let shape = |block_tokens| CacheShape { block_tokens, kv_tokens: 4096 };
    assert_eq!(PrefixIndex::new(&[shape(16), shape(24)], 0, 100).block_tokens(), 32);
    assert_eq!(PrefixIndex::new(&[shape(16)], 64, 100).block_tokens(), 64);
    assert_eq!(PrefixIndex::new(&[], 0, 100).block_tokens(), 16);
}

#[test]
fn a_chain_that_nobody_asked_for_is_found_nowhere() {
    let mut index = PrefixIndex::new(&[CacheShape { block_tokens: 16, kv_tokens: 4096 }], 0, 100);
    let prompt = tokens(&[1, 2, 3], 0);
    index.used(EngineId(0), &chain(&index, &prompt), 48);
    assert_eq!(index.cached_on(EngineId(0), &mut index.chain(48), prompt_only(&prompt)), 32);
    assert_eq!(index.cached_on(EngineId(0), &mut Chain::default(), prompt_only(&prompt)), 0);
}
