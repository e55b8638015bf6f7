// Ranges the kernels of kernels/kv_copy.cu, as they stand, on the CPU: one warp after another, its 32 lanes as coroutines that take turns at
// the warp's votes. A vote that not all lanes reach, a word that is not aligned and a read outside of the ranges end the program.
//
// Reads cases from stdin and writes each one's target memory to stdout; tests/stand_in_gpus/kernels/emulator.rs has the format.

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(threads)

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

struct Position {
    unsigned x;
};
static Position threadIdx, blockIdx, blockDim, gridDim;

static std::vector<bool> readable;
static uintptr_t source_begin;

[[noreturn]] static void fail(const char* what) {
    fprintf(stderr, "emulator: %s\n", what);
    exit(1);
}

template <typename Word>
static Word __ldcs(const Word* at) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(at);
    if (address % sizeof(Word) != 0) fail("a word that is not aligned is read");
    for (size_t i = 0; i < sizeof(Word); ++i) {
        const uintptr_t offset = address - source_begin + i;
        if (offset >= readable.size() || !readable[offset]) fail("a byte outside of the ranges is read");
    }
    return *at;
}

static unsigned __popc(unsigned bits) { return __builtin_popcount(bits); }

constexpr unsigned LANES = 32;
constexpr size_t STACK_BYTES = 64 << 10;
static ucontext_t scheduler, lanes[LANES];
static std::vector<char> stacks[LANES];
static bool finished[LANES], votes[LANES];
static unsigned ballot;

static unsigned __ballot_sync(unsigned, bool vote) {
    const unsigned lane = threadIdx.x % LANES;
    votes[lane] = vote;
    swapcontext(&lanes[lane], &scheduler);
    return ballot;
}

// Stores are checked by the sanitizer (alignment) and by comparing all of the target (place).
#include KERNELS

struct Case {
    uint64_t kernel, blocks, tile_bytes, count, bytes, source_bytes, target_bytes;
};
static_assert(sizeof(Case) == 56, "as emulator.rs writes it");
static Case now;
static uint64_t source_base, target_base;
static std::vector<ByteRange> ranges;

static void lane_main() {
    const auto kernel = now.kernel == 0 ? kv_gather : now.kernel == 1 ? kv_scatter : kv_peer_store;
    kernel(source_base, target_base, ranges.data(), now.count, now.bytes, now.tile_bytes);
    finished[threadIdx.x % LANES] = true;
}

static void run_warp(unsigned block, unsigned warp) {
    for (unsigned lane = 0; lane < LANES; ++lane) {
        finished[lane] = false;
        stacks[lane].resize(STACK_BYTES);
        getcontext(&lanes[lane]);
        lanes[lane].uc_stack.ss_sp = stacks[lane].data();
        lanes[lane].uc_stack.ss_size = STACK_BYTES;
        lanes[lane].uc_link = &scheduler;
        makecontext(&lanes[lane], lane_main, 0);
    }
    for (unsigned done = 0; done < LANES;) {
        done = 0;
        for (unsigned lane = 0; lane < LANES; ++lane) {
            blockIdx.x = block;
            threadIdx.x = warp * LANES + lane;
            swapcontext(&scheduler, &lanes[lane]);
            done += finished[lane];
        }
        if (done != 0 && done != LANES) fail("a vote that not all lanes reach");
        ballot = 0;
        for (unsigned lane = 0; lane < LANES; ++lane) ballot |= unsigned(votes[lane]) << lane;
    }
}

template <typename T>
static bool read_into(T* to, size_t count) {
    return fread(to, sizeof(T), count, stdin) == count;
}

int main() {
    while (read_into(&now, 1)) {
        // Base addresses are aligned as device allocations are, at least modulo 16.
        char* const source = static_cast<char*>(aligned_alloc(256, (now.source_bytes + 256) & ~255ull));
        char* const target = static_cast<char*>(aligned_alloc(256, (now.target_bytes + 256) & ~255ull));
        ranges.resize(now.count);
        if (!read_into(ranges.data(), now.count) || !read_into(source, now.source_bytes) || !read_into(target, now.target_bytes))
            fail("the input ends within a case");
        source_begin = source_base = reinterpret_cast<uintptr_t>(source);
        target_base = reinterpret_cast<uintptr_t>(target);
        readable.assign(now.source_bytes, false);
        for (uint64_t i = 0; i < now.count; ++i) {
            const uint64_t end = i + 1 < now.count ? ranges[i + 1].begin : now.bytes;
            for (uint64_t byte = 0; byte < end - ranges[i].begin; ++byte) readable[ranges[i].source + byte] = true;
        }
        gridDim.x = now.blocks;
        blockDim.x = THREADS;
        for (unsigned block = 0; block < now.blocks; ++block)
            for (unsigned warp = 0; warp < THREADS / WARP; ++warp) run_warp(block, warp);
        fwrite(target, 1, now.target_bytes, stdout);
        free(source);
        free(target);
    }
    return 0;
}
