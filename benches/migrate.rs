//! Plans and copies: `cargo bench --bench migrate`.
//!
//! - `plan/*`: from block pairs to coalesced spans, for a layer-major and a block-major layout, with blocks in one piece and scattered.
//! - `move/*`: the same 4 MiB and 32 MiB by `memcpy` within one allocation, and by the shm transport between two memfds; `runs`
//!   is the number of spans. Throughput is in bytes copied.

use std::fs::File;
use std::hint::black_box;
use std::os::fd::OwnedFd;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use dualpool_kv::wire::{Group, Layer, MemoryKind, Register};
use dualpool_kv::{BlockPair, ByteRange, KvMap, Memory, ShmTransport, Stop, Transport, copy_plan, total_bytes};
use dualpool_types::{BlockId, EngineId};

/// SmolLM2-135M in bf16: 30 layers, 128 tokens x 3 heads x 64 x (key + value) x 2 bytes per block.
const LAYERS: u64 = 30;
const RUN: u64 = 128 * 3 * 64 * 2 * 2;

fn map(engine: u16, blocks: u32, block_major: bool) -> KvMap {
    let layer = |i: u64| Layer {
        name: format!("model.layers.{i}.self_attn.attn"),
        group: 0,
        dtype: "bfloat16".into(),
        base: if block_major { i * RUN } else { i * RUN * u64::from(blocks) },
        block_stride: if block_major { LAYERS * RUN } else { RUN },
        blocks,
        ranges: vec![(0, RUN)],
    };
    let bytes = LAYERS * RUN * u64::from(blocks);
    let register = Register {
        memory: MemoryKind::Shm { bytes },
        layout: if block_major { "BLHNC" } else { "LBHNC" }.into(),
        backend: "bench".into(),
        groups: vec![Group { block_size: 128 }],
        layers: (0..LAYERS).map(layer).collect(),
    };
    KvMap::new(EngineId(engine), register).expect("the map is valid by construction")
}

/// Every block, or every other one: neighbours merge, the others do not.
fn pairs(count: u32, step: u32) -> Vec<Vec<BlockPair>> {
    vec![(0..count).map(|i| BlockPair { source: BlockId(i * step), target: BlockId(i * step + 3) }).collect()]
}

fn plans(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    for (layout, block_major) in [("layer_major", false), ("block_major", true)] {
        let (source, target) = (map(0, 1024, block_major), map(1, 1024, block_major));
        for (what, blocks, step) in [("in_one_piece", 36, 1), ("scattered", 36, 2), ("scattered", 500, 2)] {
            let pairs = pairs(blocks, step);
            group.throughput(Throughput::Elements(u64::from(blocks) * LAYERS));
            group.bench_function(BenchmarkId::new(format!("{layout}/{what}"), blocks), |b| {
                b.iter(|| copy_plan(black_box(&source), black_box(&target), black_box(&pairs)))
            });
        }
    }
}

fn memory(bytes: u64) -> Memory {
    Memory::Shm { fd: memfd(bytes), bytes }
}

fn memfd(bytes: u64) -> OwnedFd {
    let fd = memfd_create("dualpool-bench", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("a memfd");
    let file = File::from(fd);
    file.set_len(bytes).expect("room for the memfd");
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).expect("a seal");
    OwnedFd::from(file)
}

fn moves(c: &mut Criterion) {
    let mut group = c.benchmark_group("move");
    let (source, target) = (map(0, 128, false), map(1, 128, false));
    let mut shm = ShmTransport::new();
    shm.map(EngineId(0), memory(source.bytes)).expect("mapped");
    shm.map(EngineId(1), memory(target.bytes)).expect("mapped");
    for (blocks, step) in [(2, 1), (2, 2), (12, 1), (12, 2)] {
        let spans = copy_plan(&source, &target, &pairs(blocks, step)).expect("a plan");
        let bytes = total_bytes(&spans);
        group.throughput(Throughput::Bytes(bytes));
        let name = format!("{}MiB_{}runs", bytes >> 20, spans.len());
        group.bench_function(BenchmarkId::new("shm", &name), |b| b.iter(|| copy(&mut shm, black_box(&spans))));
        let from = vec![1u8; bytes as usize];
        let mut to = vec![0u8; bytes as usize];
        group.bench_function(BenchmarkId::new("memcpy", &name), |b| b.iter(|| to.copy_from_slice(black_box(&from))));
    }
    first_touch(&mut group, &source, &target);
}

fn copy(shm: &mut ShmTransport, spans: &[ByteRange]) {
    shm.copy(spans, EngineId(0), EngineId(1), &Stop::default()).expect("both engines are mapped");
}

/// The first copy through a new mapping: pages are there (their engine touched them) but this process has not seen them yet.
fn first_touch(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>, source: &KvMap, target: &KvMap) {
    let memories = [(EngineId(0), memfd(source.bytes), source.bytes), (EngineId(1), memfd(target.bytes), target.bytes)];
    let mapped = || {
        let mut shm = ShmTransport::new();
        for (engine, fd, bytes) in &memories {
            let fd = fd.try_clone().expect("a file descriptor");
            shm.map(*engine, Memory::Shm { fd, bytes: *bytes }).expect("mapped");
        }
        shm
    };
    let spans = copy_plan(source, target, &pairs(12, 1)).expect("a plan");
    copy(&mut mapped(), &spans);
    group.throughput(Throughput::Bytes(total_bytes(&spans)));
    group.bench_function(BenchmarkId::new("shm_first_touch", format!("{}MiB", total_bytes(&spans) >> 20)), |b| {
        b.iter_batched(
            mapped,
            |mut shm| {
                copy(&mut shm, &spans);
                shm
            },
            BatchSize::PerIteration,
        )
    });
}

criterion_group!(benches, plans, moves);
criterion_main!(benches);
