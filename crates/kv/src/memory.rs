//! What an engine registered: where every KV block of every layer lies in its memory. A `KvMap` is checked when it is made, so
//! that no block it names lies outside the memory.

use std::collections::BTreeSet;

use thiserror::Error;

use dualpool_types::EngineId;

use super::control::wire::{Layer, MemoryKind, Register, Segment};

/// Bounds of one map; real models stay far below them.
pub(crate) const LAYERS_MAX: usize = 1024;
pub(crate) const GROUPS_MAX: usize = 64;
/// Pieces of GPU memory of one engine. vLLM allocates one per layer at most; with more of them the message would not fit.
pub(crate) const SEGMENTS_MAX: usize = 256;

/// One engine's KV memory.
#[derive(Clone, Debug, PartialEq)]
pub struct KvMap {
    pub engine: EngineId,
    /// `shm` or `cuda`.
    pub kind: &'static str,
    /// Size of the memory. Every offset below lies within it.
    pub bytes: u64,
    pub layout: String,
    pub backend: String,
    pub groups: Vec<KvGroup>,
    /// Sorted by name, so that the same layers of two maps have the same place.
    pub layers: Vec<Layer>,
}

/// Layers that share a block table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvGroup {
    /// Tokens per block.
    pub block_size: u32,
    /// Block ids are below this.
    pub blocks: u32,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum MapError {
    #[error("the pieces of the memory have more bytes than an offset can name")]
    TooLarge,
    #[error("piece {index} of the memory is empty, or its offset {offset} with its {bytes} bytes is beyond any allocation")]
    Segment { index: usize, offset: u64, bytes: u64 },
    #[error("{what} is {found}; it must be between 1 and {max}")]
    Count { what: &'static str, found: usize, max: usize },
    #[error("KV group {group} has block_size 0 or no layer")]
    EmptyGroup { group: usize },
    #[error("layer `{layer}` is listed twice")]
    Twice { layer: String },
    #[error("layer `{layer}` names KV group {group}, but there are {groups}")]
    NoGroup { layer: String, group: u16, groups: usize },
    #[error("layer `{layer}` has {found} blocks, other layers of its KV group have {expected}")]
    Blocks { layer: String, found: u32, expected: u32 },
    #[error("layer `{layer}` has a byte range that is empty or overlaps the one before it, at offset {offset}")]
    Ranges { layer: String, offset: u64 },
    #[error("layer `{layer}` ends at byte {end:?}, beyond the memory's {bytes} bytes")]
    OutOfBounds { layer: String, end: Option<u64>, bytes: u64 },
}

/// Two engines that cannot exchange blocks, with what differs on both sides.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{left} and {right} cannot exchange KV blocks: {what} is {left_value} on {left} and {right_value} on {right}")]
pub struct Mismatch {
    pub left: EngineId,
    pub right: EngineId,
    pub what: String,
    pub left_value: String,
    pub right_value: String,
}

impl KvMap {
    pub fn new(engine: EngineId, register: Register) -> Result<KvMap, MapError> {
        let Register { memory, layout, backend, groups, mut layers } = register;
        let bytes = memory.bytes().ok_or(MapError::TooLarge)?;
        if let MemoryKind::Cuda { segments, .. } = &memory {
            check_segments(segments)?;
        }
        count("the number of layers", layers.len(), LAYERS_MAX)?;
        count("the number of KV groups", groups.len(), GROUPS_MAX)?;
        layers.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = layers.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(MapError::Twice { layer: pair[0].name.clone() });
        }
        let mut groups: Vec<KvGroup> = groups.iter().map(|g| KvGroup { block_size: g.block_size, blocks: 0 }).collect();
        for layer in &layers {
            let count = groups.len();
            let Some(group) = groups.get_mut(usize::from(layer.group)) else {
                return Err(MapError::NoGroup { layer: layer.name.clone(), group: layer.group, groups: count });
            };
            check_layer(layer, bytes)?;
            match group.blocks {
                0 => group.blocks = layer.blocks,
                expected if expected != layer.blocks => {
                    return Err(MapError::Blocks { layer: layer.name.clone(), found: layer.blocks, expected });
                }
                _ => {}
            }
        }
        if let Some(group) = groups.iter().position(|g| g.block_size == 0 || g.blocks == 0) {
            return Err(MapError::EmptyGroup { group });
        }
        Ok(KvMap { engine, kind: memory.name(), bytes, layout, backend, groups, layers })
    }

    /// Whether bytes of this map's blocks mean the same in `other`'s blocks. Blocks may lie elsewhere and be more or fewer; all
    /// that is inside a block must be equal.
    pub fn matches(&self, other: &KvMap) -> Result<(), Mismatch> {
        let differ = |what: &str, left: &dyn std::fmt::Debug, right: &dyn std::fmt::Debug| Mismatch {
            left: self.engine,
            right: other.engine,
            what: what.to_string(),
            left_value: format!("{left:?}"),
            right_value: format!("{right:?}"),
        };
        if self.kind != other.kind {
            return Err(differ("the kind of KV memory", &self.kind, &other.kind));
        }
        if self.backend != other.backend {
            return Err(differ("the attention backend", &self.backend, &other.backend));
        }
        if self.layout != other.layout {
            return Err(differ("the KV layout", &self.layout, &other.layout));
        }
        let sizes = |map: &KvMap| map.groups.iter().map(|g| g.block_size).collect::<Vec<_>>();
        if sizes(self) != sizes(other) {
            return Err(differ("the block size of the KV groups", &sizes(self), &sizes(other)));
        }
        if !self.layers.iter().map(|l| &l.name).eq(other.layers.iter().map(|l| &l.name)) {
            let names = |map: &KvMap| map.layers.iter().map(|l| l.name.clone()).collect::<BTreeSet<_>>();
            let (left, right) = (names(self), names(other));
            let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
            return Err(differ("the set of layers (those the other lacks)", &only(&left, &right), &only(&right, &left)));
        }
        for (left, right) in self.layers.iter().zip(&other.layers) {
            if left.dtype != right.dtype {
                return Err(differ(&format!("the dtype of layer `{}`", left.name), &left.dtype, &right.dtype));
            }
            if left.group != right.group {
                return Err(differ(&format!("the KV group of layer `{}`", left.name), &left.group, &right.group));
            }
            if left.ranges != right.ranges {
                let bytes = |layer: &Layer| (layer.ranges.len(), layer.ranges.iter().map(|range| range.1).sum::<u64>());
                if bytes(left) != bytes(right) {
                    let what = format!("the (byte ranges, bytes) of a block of layer `{}`", left.name);
                    return Err(differ(&what, &bytes(left), &bytes(right)));
                }
                let first = left.ranges.iter().zip(&right.ranges).find(|(left, right)| left != right);
                let what = format!("the first other (offset, length) in a block of layer `{}`", left.name);
                return Err(differ(&what, &first.map(|(left, _)| left), &first.map(|(_, right)| right)));
            }
        }
        Ok(())
    }
}

fn count(what: &'static str, found: usize, max: usize) -> Result<(), MapError> {
    if (1..=max).contains(&found) { Ok(()) } else { Err(MapError::Count { what, found, max }) }
}

fn check_segments(segments: &[Segment]) -> Result<(), MapError> {
    count("the number of pieces of the memory", segments.len(), SEGMENTS_MAX)?;
    let wrong = |segment: &Segment| segment.bytes == 0 || segment.offset.checked_add(segment.bytes).is_none();
    match segments.iter().enumerate().find(|(_, segment)| wrong(segment)) {
        None => Ok(()),
        Some((index, &Segment { offset, bytes, .. })) => Err(MapError::Segment { index, offset, bytes }),
    }
}

fn check_layer(layer: &Layer, bytes: u64) -> Result<(), MapError> {
    let mut end_of_ranges = 0;
    for &(offset, length) in &layer.ranges {
        if length == 0 || offset < end_of_ranges {
            return Err(MapError::Ranges { layer: layer.name.clone(), offset });
        }
        end_of_ranges = offset.checked_add(length).ok_or(MapError::Ranges { layer: layer.name.clone(), offset })?;
    }
    if layer.ranges.is_empty() || layer.blocks == 0 {
        return Err(MapError::Ranges { layer: layer.name.clone(), offset: 0 });
    }
    let end = u64::from(layer.blocks - 1)
        .checked_mul(layer.block_stride)
        .and_then(|last| layer.base.checked_add(last))
        .and_then(|last| last.checked_add(end_of_ranges));
    match end {
        Some(end) if end <= bytes => Ok(()),
        end => Err(MapError::OutOfBounds { layer: layer.name.clone(), end, bytes }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::control::wire::Group;
    use super::*;
    use dualpool_cuda::GpuUuid;

    /// Two layers in one group, each block one range, as vLLM's CPU backend lays them out.
    pub(crate) fn register(blocks: u32, range_bytes: u64) -> Register {
        let layer = |i: u64| Layer {
            name: format!("layers.{i}"),
            group: 0,
            dtype: "bfloat16".into(),
            base: i * u64::from(blocks) * range_bytes,
            block_stride: range_bytes,
            blocks,
            ranges: vec![(0, range_bytes)],
        };
        Register {
            memory: MemoryKind::Shm { bytes: 2 * u64::from(blocks) * range_bytes },
            layout: "LBHNC".into(),
            backend: "cpu AVX512".into(),
            groups: vec![Group { block_size: 128 }],
            layers: vec![layer(0), layer(1)],
        }
    }

    pub(crate) fn map(engine: u16, blocks: u32, range_bytes: u64) -> KvMap {
        KvMap::new(EngineId(engine), register(blocks, range_bytes)).unwrap()
    }

    #[test]
    fn maps_that_reach_outside_the_memory_are_refused() {
        let good = register(4, 64);
        let new = |edit: &dyn Fn(&mut Register)| {
            let mut register = good.clone();
            edit(&mut register);
            KvMap::new(EngineId(0), register)
        };
        assert!(new(&|_| {}).is_ok());
        assert!(matches!(new(&|r| r.layers[1].base += 1), Err(MapError::OutOfBounds { end: Some(513), bytes: 512, .. })));
        assert!(matches!(new(&|r| r.layers[0].base = u64::MAX), Err(MapError::OutOfBounds { end: None, .. })));
        assert!(matches!(new(&|r| r.layers[0].block_stride = u64::MAX), Err(MapError::OutOfBounds { end: None, .. })));
        assert!(matches!(new(&|r| r.layers[0].ranges[0].1 = u64::MAX), Err(MapError::OutOfBounds { .. })));
        assert!(matches!(new(&|r| r.layers[0].ranges = vec![(0, 8), (4, 8)]), Err(MapError::Ranges { offset: 4, .. })));
        assert!(matches!(new(&|r| r.layers[0].ranges.clear()), Err(MapError::Ranges { .. })));
        assert!(matches!(new(&|r| r.layers[0].group = 1), Err(MapError::NoGroup { group: 1, groups: 1, .. })));
        assert!(matches!(new(&|r| r.layers[1].name = "layers.0".into()), Err(MapError::Twice { .. })));
        assert!(matches!(new(&|r| r.layers[1].blocks = 3), Err(MapError::Blocks { found: 3, expected: 4, .. })));
        assert!(matches!(new(&|r| r.groups[0].block_size = 0), Err(MapError::EmptyGroup { group: 0 })));
        assert!(matches!(new(&|r| r.layers.clear()), Err(MapError::Count { found: 0, .. })));
    }

    #[test]
    fn pieces_of_gpu_memory_count_as_one_range_and_are_checked() {
        let segment = |offset, bytes| Segment { handle: "07".repeat(64), offset, bytes };
        let new = |segments: Vec<Segment>| {
            let memory = MemoryKind::Cuda { uuid: GpuUuid::from_bytes([1; 16]), segments };
            KvMap::new(EngineId(0), Register { memory, ..register(4, 64) })
        };
        let map = new(vec![segment(4096, 256), segment(0, 256)]).unwrap();
        assert_eq!((map.kind, map.bytes), ("cuda", 512));
        assert!(matches!(new(vec![segment(0, 511)]), Err(MapError::OutOfBounds { end: Some(512), bytes: 511, .. })));
        assert!(matches!(new(vec![segment(0, 512), segment(0, 0)]), Err(MapError::Segment { index: 1, .. })));
        assert!(matches!(new(vec![segment(u64::MAX, 512)]), Err(MapError::Segment { index: 0, .. })));
        assert_eq!(new(vec![segment(0, u64::MAX), segment(0, 1)]), Err(MapError::TooLarge));
        assert!(matches!(new(Vec::new()), Err(MapError::Count { found: 0, .. })));
        assert!(matches!(new(vec![segment(0, 2); 257]), Err(MapError::Count { found: 257, .. })));
    }

    #[test]
    fn a_mismatch_names_both_sides() {
        let left = map(0, 4, 64);
        let check = |edit: &dyn Fn(&mut KvMap)| {
            let mut right = map(1, 9, 64);
            edit(&mut right);
            left.matches(&right).map_err(|mismatch| mismatch.to_string())
        };
        assert_eq!(check(&|_| {}), Ok(()), "another number of blocks is no mismatch");
        let text = check(&|r| r.layout = "BLHNC".into()).unwrap_err();
        assert!(text.contains(r#""LBHNC" on engine-0"#) && text.contains(r#""BLHNC" on engine-1"#), "{text}");
        let text = check(&|r| r.kind = "cuda").unwrap_err();
        assert!(text.contains(r#"the kind of KV memory is "shm" on engine-0 and "cuda" on engine-1"#), "{text}");
        assert!(check(&|r| r.backend = "cpu AVX2".into()).unwrap_err().contains("AVX2"));
        assert!(check(&|r| r.groups[0].block_size = 64).unwrap_err().contains("[64]"));
        assert!(check(&|r| r.layers[1].dtype = "float32".into()).unwrap_err().contains("layers.1"));
        assert!(check(&|r| r.layers[1].ranges = vec![(0, 32), (32, 32)]).unwrap_err().contains("(2, 64)"));
        assert!(
            check(&|r| r.layers[1].ranges = vec![(8, 64)]).unwrap_err().contains("Some((0, 64)) on engine-0 and Some((8, 64)) on")
        );
        assert!(check(&|r| r.layers[1].name = "layers.9".into()).unwrap_err().contains("layers.9"));
    }
}
