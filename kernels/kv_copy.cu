// Copies lists of byte ranges: out of KV memory into a staging buffer, out of a staging buffer into KV memory, and straight into
// the memory of a peer. README.md beside this file has the arguments and their symbols; reference.rs says the same on the CPU.
//
// The obvious kernel, one block per range, is slow for one long range and for many short ones. Here the ranges are laid end to end, and
// what is divided is that stream of bytes: into tiles of equal size, which warps take in turn. A warp finds the range its tile begins
// in by search, and walks on from there.
//
// Self-contained on purpose, without includes: NVRTC compiles the text as it stands.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8 && sizeof(void*) == 8, "a 64-bit target");

// As `DeviceByteRange` of crates/cuda/src/kernels/ranges.rs lays it out.
struct ByteRange {
    u64 source;  // added to the base address of the source
    u64 target;  // added to the base address of the target
    u64 begin;   // bytes in all ranges before this one; this range ends where the next one begins, the last one at `bytes`
};

constexpr u32 WARP = 32;
constexpr u32 EVERY_LANE = 0xffffffff;
constexpr u32 THREADS = 512;

// Copies between addresses that are aligned to `Word`. Four loads are under way before the first store waits for its data: one warp
// then has 2 KiB of 16-byte words in flight, without which few warps could not use the memory's bandwidth.
template <typename Word>
__device__ __forceinline__ void copy_words(const Word* source, Word* target, u64 count, u32 lane) {
    u64 i = lane;
    for (; i + 3 * WARP < count; i += 4 * WARP) {
        // Every byte is read once: marked as first to leave the caches, it does not drive out what the engine is working on.
        const Word a = __ldcs(source + i);
        const Word b = __ldcs(source + i + WARP);
        const Word c = __ldcs(source + i + 2 * WARP);
        const Word d = __ldcs(source + i + 3 * WARP);
        target[i] = a;
        target[i + WARP] = b;
        target[i + 2 * WARP] = c;
        target[i + 3 * WARP] = d;
    }
    for (; i < count; i += WARP) target[i] = __ldcs(source + i);
}

// Copies between addresses that are equal modulo the size of `Word`: bytes up to the first aligned word, words, bytes again.
// Nothing outside of the range is read, not even to fill a word: its neighbours may be under writing.
template <typename Word>
__device__ __forceinline__ void copy_as(u64 source, u64 target, u64 length, u32 lane) {
    const u64 to_alignment = (0 - target) & (sizeof(Word) - 1);
    const u64 head = to_alignment < length ? to_alignment : length;
    const u64 words = (length - head) / sizeof(Word);
    const u64 tail_at = head + words * sizeof(Word);
    const u8* const from = reinterpret_cast<const u8*>(source);
    u8* const to = reinterpret_cast<u8*>(target);
    // Head and tail have at most 15 bytes each, one per lane.
    if (lane < head) to[lane] = from[lane];
    copy_words(reinterpret_cast<const Word*>(source + head), reinterpret_cast<Word*>(target + head), words, lane);
    if (lane < length - tail_at) to[tail_at + lane] = from[tail_at + lane];
}

// One contiguous piece, copied by one warp in the widest words that both addresses allow.
__device__ __forceinline__ void copy_piece(u64 source, u64 target, u64 length, u32 lane) {
    const u64 differ = source ^ target;
    if ((differ & 15) == 0) copy_as<uint4>(source, target, length, lane);
    else if ((differ & 7) == 0) copy_as<u64>(source, target, length, lane);
    else if ((differ & 3) == 0) copy_as<u32>(source, target, length, lane);
    else if ((differ & 1) == 0) copy_as<u16>(source, target, length, lane);
    else copy_as<u8>(source, target, length, lane);
}

// The range that holds byte `at` of the stream: the last one that begins at or before it. All lanes search together: each step divides
// what is left by 32, so that 120,000 ranges take four loads one after the other instead of seventeen.
__device__ __forceinline__ u64 range_at(const ByteRange* ranges, u64 count, u64 at, u32 lane) {
    u64 low = 0, high = count;
    while (high - low > 1) {
        const u64 step = (high - low + WARP - 1) / WARP;
        const u64 probe = low + lane * step;
        // Lane 0 always says yes, since the range at `low` begins at or before `at`; the lanes that say yes are the lowest ones.
        const u32 yes = __popc(__ballot_sync(EVERY_LANE, probe < high && ranges[probe].begin <= at));
        low += (yes - 1) * step;
        high = low + step < high ? low + step : high;
    }
    return low;
}

__device__ __forceinline__ void copy_ranges(u64 source, u64 target, const ByteRange* ranges, u64 count, u64 bytes, u64 tile_bytes) {
    const u32 lane = threadIdx.x % WARP;
    const u64 warps = u64(gridDim.x) * (blockDim.x / WARP);
    const u64 warp = u64(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    for (u64 at = warp * tile_bytes; at < bytes; at += warps * tile_bytes) {
        const u64 tile_end = at + tile_bytes < bytes ? at + tile_bytes : bytes;
        u64 next = at;
        for (u64 i = range_at(ranges, count, at, lane); next < tile_end; ++i) {
            const ByteRange range = ranges[i];
            const u64 range_end = i + 1 < count ? ranges[i + 1].begin : bytes;
            const u64 end = range_end < tile_end ? range_end : tile_end;
            const u64 within = next - range.begin;
            copy_piece(source + range.source + within, target + range.target + within, end - next, lane);
            next = end;
        }
    }
}

// NOTES: three entry points with one body. Which side is KV memory, which is staging and which is a peer's is a matter of the
// addresses alone; the names are what a profile shows.

extern "C" __global__ void __launch_bounds__(THREADS)
kv_gather(u64 memory, u64 staging, const ByteRange* ranges, u64 count, u64 bytes, u64 tile_bytes) {
    copy_ranges(memory, staging, ranges, count, bytes, tile_bytes);
}

extern "C" __global__ void __launch_bounds__(THREADS)
kv_scatter(u64 staging, u64 memory, const ByteRange* ranges, u64 count, u64 bytes, u64 tile_bytes) {
    copy_ranges(staging, memory, ranges, count, bytes, tile_bytes);
}

extern "C" __global__ void __launch_bounds__(THREADS)
kv_peer_store(u64 memory, u64 peer_memory, const ByteRange* ranges, u64 count, u64 bytes, u64 tile_bytes) {
    copy_ranges(memory, peer_memory, ranges, count, bytes, tile_bytes);
}
