//! From pairs of blocks to the fewest byte ranges to copy. Pure; knows nothing of how bytes are copied.

use thiserror::Error;

use dualpool_types::{BlockId, EngineId};

use super::memory::{KvMap, Mismatch};

/// One contiguous piece of a copy plan: `length` bytes from `source` in the source engine's memory to `target` in the destination's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRange {
    pub source: u64,
    pub target: u64,
    pub length: u64,
}

/// A block to copy and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockPair {
    pub source: BlockId,
    pub target: BlockId,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum CopyPlanError {
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error("the copy plan has blocks for {found} KV groups, the engines have {expected}")]
    Groups { found: usize, expected: usize },
    #[error("block {} of KV group {group} is outside {engine}'s {blocks} blocks", block.0)]
    NoSuchBlock { engine: EngineId, group: usize, block: BlockId, blocks: u32 },
    #[error("block {} of KV group {group} would be written twice", block.0)]
    WrittenTwice { group: usize, block: BlockId },
}

/// The copy plan that brings `pairs` (one list per KV group) from `source` to `target`: ascending in the source, and merged wherever
/// two are contiguous at both ends. Every range lies within both maps.
pub fn copy_plan(source: &KvMap, target: &KvMap, pairs: &[Vec<BlockPair>]) -> Result<Vec<ByteRange>, CopyPlanError> {
    source.matches(target)?;
    check_blocks(source, target, pairs)?;
    let mut spans = Vec::new();
    for (from, to) in source.layers.iter().zip(&target.layers) {
        for pair in &pairs[usize::from(from.group)] {
            let (source, target) =
                (from.base + block(pair.source, from.block_stride), to.base + block(pair.target, to.block_stride));
            spans.extend(from.ranges.iter().map(|&(offset, length)| ByteRange {
                source: source + offset,
                target: target + offset,
                length,
            }));
        }
    }
    // Layers and blocks come in ascending order in most layouts, which makes this stable sort a single pass.
    spans.sort();
    spans.dedup_by(|next, last| {
        let contiguous = last.source + last.length == next.source && last.target + last.length == next.target;
        if contiguous {
            last.length += next.length;
        }
        contiguous
    });
    Ok(spans)
}

pub fn total_bytes(plan: &[ByteRange]) -> u64 {
    plan.iter().map(|span| span.length).sum()
}

fn block(id: BlockId, stride: u64) -> u64 {
    u64::from(id.0) * stride
}

fn check_blocks(source: &KvMap, target: &KvMap, pairs: &[Vec<BlockPair>]) -> Result<(), CopyPlanError> {
    if pairs.len() != source.groups.len() {
        return Err(CopyPlanError::Groups { found: pairs.len(), expected: source.groups.len() });
    }
    for (group, pairs) in pairs.iter().enumerate() {
        let within = |map: &KvMap, block: BlockId| match map.groups[group].blocks {
            blocks if block.0 < blocks => Ok(()),
            blocks => Err(CopyPlanError::NoSuchBlock { engine: map.engine, group, block, blocks }),
        };
        let mut targets = Vec::with_capacity(pairs.len());
        for pair in pairs {
            within(source, pair.source)?;
            within(target, pair.target)?;
            targets.push(pair.target);
        }
        targets.sort();
        if let Some(twice) = targets.windows(2).find(|two| two[0] == two[1]) {
            return Err(CopyPlanError::WrittenTwice { group, block: twice[0] });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::control::wire::{Group, Layer, MemoryKind, Register};
    use super::super::memory::tests::map;
    use super::*;

    fn pair(source: u32, target: u32) -> BlockPair {
        BlockPair { source: BlockId(source), target: BlockId(target) }
    }

    #[test]
    fn neighbours_at_both_ends_become_one_copy() {
        let (source, target) = (map(0, 8, 64), map(1, 16, 64));
        let spans = copy_plan(&source, &target, &[vec![pair(2, 5), pair(3, 6), pair(4, 9)]]).unwrap();
        let layer = |base_source: u64, base_target: u64| {
            [
                ByteRange { source: base_source + 128, target: base_target + 320, length: 128 },
                ByteRange { source: base_source + 256, target: base_target + 576, length: 64 },
            ]
        };
        assert_eq!(spans, [layer(0, 0), layer(512, 1024)].concat());
        assert_eq!(total_bytes(&spans), 2 * 3 * 64);
    }

    #[test]
    fn blocks_outside_a_map_are_refused() {
        let (source, target) = (map(0, 4, 64), map(1, 4, 64));
        let refused = |pairs: &[Vec<BlockPair>]| copy_plan(&source, &target, pairs).unwrap_err();
        assert!(matches!(refused(&[vec![pair(4, 0)]]), CopyPlanError::NoSuchBlock { engine: EngineId(0), .. }));
        assert!(matches!(refused(&[vec![pair(0, 4)]]), CopyPlanError::NoSuchBlock { engine: EngineId(1), .. }));
        assert!(matches!(refused(&[vec![pair(0, 1), pair(2, 1)]]), CopyPlanError::WrittenTwice { block: BlockId(1), .. }));
        assert!(matches!(refused(&[]), CopyPlanError::Groups { found: 0, expected: 1 }));
    }

    /// How a made-up backend places the bytes of its blocks.
    #[derive(Clone, Copy, Debug)]
    struct Shape {
        layers: u64,
        ranges: u64,
        range_bytes: u64,
        gap: u64,
        block_major: bool,
    }

    /// A map of this shape with one KV group per parity of the layer's index.
    fn shaped(engine: u16, shape: Shape, blocks: u32) -> KvMap {
        let Shape { layers, ranges, range_bytes, gap, block_major } = shape;
        let block = ranges * (range_bytes + gap);
        let groups = layers.min(2);
        let layer = |i: u64| Layer {
            name: format!("layers.{i}"),
            group: (i % groups) as u16,
            dtype: "float32".into(),
            base: if block_major { i * block } else { i * block * u64::from(blocks) },
            block_stride: if block_major { layers * block } else { block },
            blocks,
            ranges: (0..ranges).map(|r| (r * (range_bytes + gap), range_bytes)).collect(),
        };
        let bytes = layers * block * u64::from(blocks);
        let register = Register {
            memory: MemoryKind::Shm { bytes },
            layout: "made up".into(),
            backend: "made up".into(),
            groups: vec![Group { block_size: 16 }; groups as usize],
            layers: (0..layers).map(layer).collect(),
        };
        KvMap::new(EngineId(engine), register).unwrap()
    }

    /// What the plan means, byte by byte: target byte -> source byte.
    fn literal(source: &KvMap, target: &KvMap, pairs: &[Vec<BlockPair>]) -> BTreeMap<u64, u64> {
        let mut bytes = BTreeMap::new();
        for (from, to) in source.layers.iter().zip(&target.layers) {
            for pair in &pairs[usize::from(from.group)] {
                for &(offset, length) in &from.ranges {
                    for byte in offset..offset + length {
                        let s = from.base + u64::from(pair.source.0) * from.block_stride + byte;
                        let t = to.base + u64::from(pair.target.0) * to.block_stride + byte;
                        assert!(bytes.insert(t, s).is_none(), "the reference writes byte {t} once");
                    }
                }
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn a_plan_copies_exactly_the_bytes_of_its_blocks(
            layers in 1u64..5, ranges in 1u64..4, range_bytes in 1u64..9, gap in 0u64..3, block_major: bool,
            // A block id belongs to one group only, as in vLLM: layers of different groups may lie on the same bytes.
            copied in proptest::collection::btree_map(0u32..12, (0u32..20, 0usize..2), 0..12),
        ) {
            let shape = Shape { layers, ranges, range_bytes, gap, block_major };
            let (source, target) = (shaped(0, shape, 12), shaped(1, shape, 20));
            let mut pairs = vec![Vec::new(); source.groups.len()];
            for (&from, &(to, group)) in &copied {
                let group = group % pairs.len();
                if pairs[group].iter().all(|p: &BlockPair| p.target.0 != to) {
                    pairs[group].push(pair(from, to));
                }
            }
            let spans = copy_plan(&source, &target, &pairs).unwrap();
            let mut bytes = BTreeMap::new();
            for span in &spans {
                prop_assert!(span.source + span.length <= source.bytes && span.target + span.length <= target.bytes);
                for i in 0..span.length {
                    prop_assert!(bytes.insert(span.target + i, span.source + i).is_none(), "byte written twice");
                }
            }
            prop_assert_eq!(bytes, literal(&source, &target, &pairs));
            for two in spans.windows(2) {
                let contiguous = two[0].source + two[0].length == two[1].source && two[0].target + two[0].length == two[1].target;
                prop_assert!(!contiguous, "{:?} and {:?} are one copy", two[0], two[1]);
            }
        }
    }
}
