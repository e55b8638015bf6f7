//! Which plans are measured: a grid of range sizes and numbers of ranges that the cost is fitted to, and others, of sizes between, that tell
//! how well it predicts what it has not seen.

use rand::Rng as _;
use rand::seq::SliceRandom as _;

use dualpool_kv::wire::{Group, Layer, MemoryKind, Register};
use dualpool_kv::{BlockPair, KvMap, MapError};
use dualpool_types::{BlockId, Bytes, EngineId, Rng, seeded};

/// So many separate byte ranges of so many bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub range_bytes: Bytes,
    pub ranges: u32,
}

impl Shape {
    pub(super) fn bytes(&self) -> Bytes {
        Bytes(self.range_bytes.0 * u64::from(self.ranges))
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scale {
    /// Memory at each end. Several times the processor's caches, because blocks of a hand-off are rarely in them.
    pub memory: Bytes,
    /// The largest plan, and the one large copy that the ceiling is taken from.
    pub plan_max: Bytes,
    pub repeats: u32,
    /// Plans kept out of the fit.
    pub held_out: u32,
}

impl Scale {
    pub(super) const FULL: Scale = Scale { memory: Bytes(256 << 20), plan_max: Bytes(64 << 20), repeats: 25, held_out: 24 };
    /// A few seconds: fewer repeats of the same.
    pub(super) const QUICK: Scale = Scale { repeats: 7, ..Scale::FULL };

    pub(super) fn ceiling(&self) -> Shape {
        Shape { range_bytes: self.plan_max, ranges: 1 }
    }
}

const RANGE_BYTES: [u64; 8] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];
const RANGES: [u32; 7] = [1, 4, 16, 64, 256, 1024, 4096];
/// Held-out sizes are multiples of this, as KV of any model is.
const SIZE_STEP: u64 = 256;

pub(super) fn grid(scale: &Scale) -> Vec<Shape> {
    let all = RANGE_BYTES.iter().flat_map(|&bytes| RANGES.iter().map(move |&ranges| Shape { range_bytes: Bytes(bytes), ranges }));
    all.filter(|shape| shape.bytes() <= scale.plan_max).collect()
}

/// Plans whose range size is in no plan of the grid.
pub(super) fn held_out(scale: &Scale, seed: u64) -> Vec<Shape> {
    let mut rng = seeded(seed, "held-out plans");
    let mut shapes = Vec::new();
    while shapes.len() < scale.held_out as usize {
        let bytes = (rng.random_range((RANGE_BYTES[0] as f64).ln()..(RANGE_BYTES[7] as f64).ln()).exp() / SIZE_STEP as f64) as u64
            * SIZE_STEP;
        let ranges = rng.random_range(0.0..f64::from(RANGES[6]).ln()).exp() as u32;
        let shape = Shape { range_bytes: Bytes(bytes), ranges };
        if bytes > 0 && !RANGE_BYTES.contains(&bytes) && shape.bytes() <= scale.plan_max {
            shapes.push(shape);
        }
    }
    shapes
}

/// A KV layout in which a plan over blocks that are no neighbours has exactly this shape.
pub(super) fn map(engine: EngineId, shape: &Shape, scale: &Scale) -> Result<KvMap, MapError> {
    let (range, memory) = (shape.range_bytes.0, scale.memory.0);
    let layer = Layer {
        name: "calibration".into(),
        group: 0,
        dtype: "uint8".into(),
        base: 0,
        block_stride: range,
        blocks: (memory / range) as u32,
        ranges: vec![(0, range)],
    };
    let register = Register {
        memory: MemoryKind::Shm { bytes: memory },
        layout: "calibration".into(),
        backend: "calibration".into(),
        groups: vec![Group { block_size: 1 }],
        layers: vec![layer],
    };
    KvMap::new(engine, register)
}

/// Blocks drawn at random, no two of them neighbours: even ones only.
pub(super) fn pairs(source_blocks: u32, target_blocks: u32, ranges: u32, rng: &mut Rng) -> Vec<BlockPair> {
    let mut even = |blocks: u32| {
        let mut picked = rand::seq::index::sample(rng, blocks.div_ceil(2) as usize, ranges as usize).into_vec();
        picked.shuffle(rng);
        picked.into_iter().map(|i| BlockId(2 * i as u32))
    };
    even(source_blocks).zip(even(target_blocks)).map(|(source, target)| BlockPair { source, target }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_kv::{copy_plan, total_bytes};

    #[test]
    fn every_plan_has_the_shape_that_was_asked_for() {
        let scale = Scale::FULL;
        let mut rng = seeded(1, "plans");
        for shape in grid(&scale).into_iter().chain(held_out(&scale, 1)).chain([scale.ceiling()]) {
            let (source, target) = (map(EngineId(0), &shape, &scale).unwrap(), map(EngineId(1), &shape, &scale).unwrap());
            let pairs = pairs(source.groups[0].blocks, target.groups[0].blocks, shape.ranges, &mut rng);
            let spans = copy_plan(&source, &target, &[pairs]).unwrap();
            assert_eq!((spans.len(), total_bytes(&spans)), (shape.ranges as usize, shape.bytes().0), "{shape:?}");
            assert!(spans.iter().all(|span| span.length == shape.range_bytes.0), "{shape:?}");
        }
    }

    #[test]
    fn held_out_plans_are_of_sizes_that_the_grid_has_not() {
        let (grid, held_out) = (grid(&Scale::FULL), held_out(&Scale::FULL, 1));
        assert_eq!(held_out.len(), Scale::FULL.held_out as usize);
        assert!(held_out.iter().all(|shape| grid.iter().all(|known| known.range_bytes != shape.range_bytes)));
    }
}
