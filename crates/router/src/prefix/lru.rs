//! What one engine's prefix cache is believed to hold, and what it evicts next.
//!
//! vLLM frees the blocks of a request from the last one to the first and evicts what was freed longest ago. So blocks are touched in that
//! order here too, the first one last: a block is never older than one that follows it, hence the oldest is always a leaf, and whatever
//! is left is whole prefixes.

use super::chain::PrefixName;
use super::table::Table;

/// No node.
const NONE: u32 = u32::MAX;

struct Node {
    name: PrefixName,
    older: u32,
    newer: u32,
}

pub(super) struct Lru {
    blocks_max: u32,
    nodes: Vec<Node>,
    /// From a name to its node, counted from 1.
    places: Table,
    oldest: u32,
    newest: u32,
    /// Nodes out of use, linked by `newer`.
    spare: u32,
    len: u32,
}

/// What touching a block changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Touched {
    Known,
    Added { evicted: Option<PrefixName> },
}

impl Lru {
    /// A cache of at least one block.
    pub(super) fn new(blocks_max: u32) -> Lru {
        let blocks_max = blocks_max.max(1);
        let places = Table::new(blocks_max as usize);
        Lru { blocks_max, nodes: Vec::new(), places, oldest: NONE, newest: NONE, spare: NONE, len: 0 }
    }

    pub(super) fn blocks_max(&self) -> u32 {
        self.blocks_max
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn holds(&self, name: PrefixName) -> bool {
        self.places.get(name.key()) != 0
    }

    /// Makes this block the newest one. A cache that is full evicts its oldest one for a block it does not know.
    pub(super) fn touch(&mut self, name: PrefixName) -> Touched {
        if let Some(node) = self.places.get(name.key()).checked_sub(1) {
            self.unlink(node as u32);
            self.link_newest(node as u32);
            return Touched::Known;
        }
        let evicted = if self.len == self.blocks_max { self.evict() } else { None };
        let node = self.take_node(name);
        self.link_newest(node);
        self.places.set(name.key(), u64::from(node) + 1);
        self.len += 1;
        Touched::Added { evicted }
    }

    /// Forgets the block that was touched longest ago.
    pub(super) fn evict(&mut self) -> Option<PrefixName> {
        let node = self.oldest;
        if node == NONE {
            return None;
        }
        self.unlink(node);
        let name = self.nodes[node as usize].name;
        self.places.set(name.key(), 0);
        self.nodes[node as usize].newer = self.spare;
        self.spare = node;
        self.len -= 1;
        Some(name)
    }

    fn take_node(&mut self, name: PrefixName) -> u32 {
        let node = Node { name, older: NONE, newer: NONE };
        if self.spare == NONE {
            self.nodes.push(node);
            return self.nodes.len() as u32 - 1;
        }
        let at = self.spare;
        self.spare = std::mem::replace(&mut self.nodes[at as usize], node).newer;
        at
    }

    fn unlink(&mut self, at: u32) {
        let Node { older, newer, .. } = self.nodes[at as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        let node = &mut self.nodes[at as usize];
        (node.older, node.newer) = (before, NONE);
        match before {
            NONE => self.oldest = at,
            before => self.nodes[before as usize].newer = at,
        }
    }
}
