//! The KV blocks of one engine, and the prefix cache that is made of them, as in vLLM: a full block is known by the fingerprint of all
//! tokens up to its end; blocks that no leg uses keep what they hold until they are needed, the one unused for longest first.

use dualpool_types::IdMap;

use super::super::text::Fingerprint;

/// No block: the end of the list.
const NONE: u32 = u32::MAX;

/// A block's place in the pool.
pub(super) type Place = u32;

#[derive(Clone, Copy)]
struct Block {
    /// Known by this in the cache.
    print: Option<Fingerprint>,
    /// Legs that use it. With none it is in the list of free blocks.
    users: u32,
    before: Place,
    after: Place,
}

pub(super) struct BlockPool {
    blocks: Vec<Block>,
    /// Free blocks, in the order in which they are taken.
    first: Place,
    last: Place,
    free: u32,
    /// Free blocks that are promised to legs.
    promised: u32,
    cached: IdMap<Fingerprint, Place>,
    caching: bool,
    evictions: u64,
}

impl BlockPool {
    pub(super) fn new(blocks: u32, caching: bool) -> BlockPool {
        let mut pool = BlockPool {
            blocks: vec![Block { print: None, users: 0, before: NONE, after: NONE }; blocks as usize],
            first: NONE,
            last: NONE,
            free: 0,
            promised: 0,
            cached: IdMap::default(),
            caching,
            evictions: 0,
        };
        (0..blocks).for_each(|place| pool.append(place));
        pool
    }

    pub(super) fn caching(&self) -> bool {
        self.caching
    }

    /// Blocks that legs use or are promised.
    pub(super) fn in_use(&self) -> u32 {
        self.blocks.len() as u32 - self.free + self.promised
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// The block that holds what this fingerprint stands for.
    pub(super) fn find(&self, print: Fingerprint) -> Option<Place> {
        self.cached.get(&print).copied()
    }

    /// Takes the cached blocks into use and promises so many more; false when there is no room for that.
    pub(super) fn admit(&mut self, hits: &[Place], more: u32) -> bool {
        let unused = hits.iter().filter(|&&place| self.blocks[place as usize].users == 0).count() as u32;
        if self.free - self.promised < unused + more {
            return false;
        }
        for &place in hits {
            if self.blocks[place as usize].users == 0 {
                self.unlink(place);
            }
            self.blocks[place as usize].users += 1;
        }
        self.promised += more;
        true
    }

    /// A block that was promised. What it held is forgotten.
    pub(super) fn take(&mut self) -> Place {
        // A promise is kept by a free block, so the list has a first one.
        let place = self.first;
        self.unlink(place);
        self.promised -= 1;
        let block = &mut self.blocks[place as usize];
        block.users = 1;
        if let Some(print) = block.print.take() {
            self.cached.remove(&print);
            self.evictions += 1;
        }
        place
    }

    /// So many promised blocks are not needed after all.
    pub(super) fn forgo(&mut self, promised: u32) {
        self.promised -= promised;
    }

    /// The block is full, and what it holds can be found from now on. Where another block holds the same, that one goes on being found.
    pub(super) fn fill(&mut self, place: Place, print: Fingerprint) {
        if !self.caching || self.blocks[place as usize].print.is_some() {
            return;
        }
        if let std::collections::hash_map::Entry::Vacant(entry) = self.cached.entry(print) {
            entry.insert(place);
            self.blocks[place as usize].print = Some(print);
        }
    }

    /// A leg no longer uses these, which are in the order of its tokens. The last ones are taken again first: a prefix is of use to more.
    pub(super) fn give_back(&mut self, places: &[Place]) {
        for &place in places.iter().rev() {
            let block = &mut self.blocks[place as usize];
            block.users -= 1;
            if block.users == 0 {
                self.append(place);
            }
        }
    }

    /// Forgets all that is cached; false while any block is in use.
    pub(super) fn reset_cache(&mut self) -> bool {
        if self.in_use() > 0 {
            return false;
        }
        self.cached.clear();
        self.blocks.iter_mut().for_each(|block| block.print = None);
        true
    }

    fn append(&mut self, place: Place) {
        let before = std::mem::replace(&mut self.last, place);
        match before {
            NONE => self.first = place,
            before => self.blocks[before as usize].after = place,
        }
        let block = &mut self.blocks[place as usize];
        (block.before, block.after) = (before, NONE);
        self.free += 1;
    }

    fn unlink(&mut self, place: Place) {
        let Block { before, after, .. } = self.blocks[place as usize];
        match before {
            NONE => self.first = after,
            before => self.blocks[before as usize].after = after,
        }
        match after {
            NONE => self.last = before,
            after => self.blocks[after as usize].before = before,
        }
        self.free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::seeded;
    use rand::Rng as _;
    use std::collections::VecDeque;

    fn print(number: u32) -> Fingerprint {
        Fingerprint::EMPTY.push(number)
    }

    /// The same pool, written down literally.
    struct Model {
        free: VecDeque<Place>,
        held: Vec<Option<u32>>,
        users: Vec<u32>,
    }

    impl Model {
        fn find(&self, content: u32) -> Option<Place> {
            self.held.iter().position(|&held| held == Some(content)).map(|place| place as Place)
        }
    }

    #[test]
    fn behaves_as_a_queue_of_free_blocks_whatever_happens() {
        const BLOCKS: u32 = 12;
        for seed in 0..50 {
            let rng = &mut seeded(seed, "blocks");
            let mut pool = BlockPool::new(BLOCKS, true);
            let mut model =
                Model { free: (0..BLOCKS).collect(), held: vec![None; BLOCKS as usize], users: vec![0; BLOCKS as usize] };
            let mut legs: Vec<Vec<Place>> = Vec::new();
            for _ in 0..400 {
                let contents: Vec<u32> = (0..rng.random_range(1..5)).map(|_| rng.random_range(0..8)).collect();
                if rng.random_bool(0.5) && !legs.is_empty() {
                    let leg = legs.swap_remove(rng.random_range(0..legs.len()));
                    pool.give_back(&leg);
                    for &place in leg.iter().rev() {
                        model.users[place as usize] -= 1;
                        if model.users[place as usize] == 0 {
                            model.free.push_back(place);
                        }
                    }
                    continue;
                }
                // A leg whose first blocks are found, and the others not.
                let hits: Vec<Place> = contents.iter().map_while(|&content| pool.find(print(content))).collect();
                let expected: Vec<Place> = contents.iter().map_while(|&content| model.find(content)).collect();
                assert_eq!(hits, expected, "seed {seed}");
                if hits.iter().enumerate().any(|(i, hit)| hits[..i].contains(hit)) {
                    continue; // A prompt's prefixes are all different.
                }
                let more = (contents.len() - hits.len()) as u32;
                let unused = hits.iter().filter(|&&hit| model.users[hit as usize] == 0).count();
                let fits = model.free.len() >= unused + more as usize;
                assert_eq!(pool.admit(&hits, more), fits, "seed {seed}");
                if !fits {
                    continue;
                }
                for &hit in &hits {
                    model.free.retain(|&place| place != hit);
                    model.users[hit as usize] += 1;
                }
                let mut leg = hits.clone();
                for &content in &contents[hits.len()..] {
                    let place = pool.take();
                    assert_eq!(Some(place), model.free.pop_front(), "seed {seed}");
                    (model.held[place as usize], model.users[place as usize]) = (None, 1);
                    pool.fill(place, print(content));
                    if model.find(content).is_none() {
                        model.held[place as usize] = Some(content);
                    }
                    leg.push(place);
                }
                legs.push(leg);
                assert_eq!(pool.in_use(), BLOCKS - model.free.len() as u32, "seed {seed}");
            }
            legs.iter().for_each(|leg| pool.give_back(leg));
            assert_eq!(pool.in_use(), 0, "seed {seed}");
        }
    }

    #[test]
    fn what_is_promised_is_not_given_to_others_and_can_be_forgone() {
        let mut pool = BlockPool::new(4, false);
        assert!(pool.admit(&[], 3) && !pool.admit(&[], 2));
        let place = pool.take();
        pool.fill(place, print(1));
        assert_eq!(pool.find(print(1)), None, "there is no cache");
        pool.forgo(2);
        assert_eq!(pool.in_use(), 1);
        assert!(!pool.reset_cache());
        pool.give_back(&[place]);
        assert!(pool.reset_cache());
    }
}
