//! Where the blocks of a virtual engine lie in its memory, and which bytes stand in them.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use dualpool_kv::wire::{Group, Layer, MemoryKind, Register};
use dualpool_types::BlockId;

/// Two, so that a block is more than one byte range.
pub(super) const LAYERS: u32 = 2;
/// Per layer. Real models have some hundreds; little memory is enough to find a byte that went astray.
const TOKEN_BYTES: u64 = 64;

/// Each layer is one stretch of blocks; on a GPU, each is an allocation of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Tokens per block.
    pub block_size: u32,
    pub blocks: u32,
}

impl Shape {
    pub fn block_bytes(&self) -> u64 {
        u64::from(self.block_size) * TOKEN_BYTES
    }

    pub fn layer_bytes(&self) -> u64 {
        u64::from(self.blocks) * self.block_bytes()
    }

    pub fn bytes(&self) -> u64 {
        u64::from(LAYERS) * self.layer_bytes()
    }

    /// Where a block of a layer lies within that layer.
    pub fn within_layer(&self, block: BlockId) -> Range<u64> {
        let start = u64::from(block.0) * self.block_bytes();
        start..start + self.block_bytes()
    }

    pub fn register(&self, memory: MemoryKind) -> Register {
        let layer = |number: u32| Layer {
            name: format!("layers.{number}"),
            group: 0,
            dtype: "uint8".into(),
            base: u64::from(number) * self.layer_bytes(),
            block_stride: self.block_bytes(),
            blocks: self.blocks,
            ranges: vec![(0, self.block_bytes())],
        };
        Register {
            memory,
            layout: "LBNC".into(),
            backend: concat!("virtual ", env!("CARGO_PKG_VERSION")).into(),
            groups: vec![Group { block_size: self.block_size }],
            layers: (0..LAYERS).map(layer).collect(),
        }
    }

    /// What stands in a block of a layer when its content is `seed`. Blocks, layers and contents all differ from each other.
    pub fn content(&self, seed: u64, layer: u32) -> Vec<u8> {
        let first = mixed(seed ^ mixed(u64::from(layer) + 1));
        let mut bytes = Vec::with_capacity(self.block_bytes() as usize);
        for word in 0..self.block_bytes() / 8 {
            bytes.extend_from_slice(&mixed(first.wrapping_add(word)).to_le_bytes());
        }
        bytes
    }
}

/// Spreads every bit of the input over the output (the finaliser of SplitMix64, Steele et al. 2014).
pub(super) fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_layer_and_content_is_told_apart() {
        let shape = Shape { block_size: 16, blocks: 4 };
        let contents = [shape.content(1, 0), shape.content(1, 1), shape.content(2, 0)];
        assert!(contents.iter().all(|bytes| bytes.len() as u64 == shape.block_bytes()));
        for (i, one) in contents.iter().enumerate() {
            for other in &contents[..i] {
                let same = one.iter().zip(other).filter(|(a, b)| a == b).count();
                assert!(same < one.len() / 32, "{same} bytes of {} are equal by chance", one.len());
            }
        }
    }

    #[test]
    fn the_last_block_of_the_last_layer_ends_with_the_memory() {
        let shape = Shape { block_size: 16, blocks: 4 };
        let register = shape.register(MemoryKind::Shm { bytes: shape.bytes() });
        let last = &register.layers[LAYERS as usize - 1];
        assert_eq!(last.base + shape.within_layer(BlockId(3)).end, shape.bytes());
    }
}
