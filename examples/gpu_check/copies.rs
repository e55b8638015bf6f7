//! The kernels against the reference, on random ranges of every length and alignment.

use anyhow::ensure;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use dualpool_cuda::kernels::{ByteRange, Kernels, STAGING_MIN_BYTES, records_into, reference, windows};
use dualpool_cuda::{Context, CopyRange, DeviceMemory, Stream};
use dualpool_types::Bytes;

use crate::findings::Findings;

const MEMORY: Bytes = Bytes(32 << 20);

pub fn check(contexts: &[Context], kernels: &mut Kernels, seed: u64, rounds: usize, findings: &mut Findings) -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let first = &contexts[0];
    let here = Bench::new(first, first, rounds, &mut rng)?;
    let outcome = here.rounds(kernels, &mut rng, |kernels, stream, ranges| Ok(kernels.gather(stream, ranges)?))?;
    findings.correct("copies", "kv_gather equals the reference", outcome);
    let outcome = here.rounds(kernels, &mut rng, |kernels, stream, ranges| Ok(kernels.scatter(stream, ranges)?))?;
    findings.correct("copies", "kv_scatter equals the reference", outcome);
    let outcome = here.rounds(kernels, &mut rng, |kernels, stream, ranges| Ok(kernels.peer_store(stream, ranges)?))?;
    findings.correct("copies", "kv_peer_store equals the reference, within one GPU", outcome);
    let staging = [first.allocate(Bytes(1 << 20))?, first.allocate(Bytes(1 << 20))?];
    let outcome = here.rounds(kernels, &mut rng, |kernels, stream, ranges| staged(kernels, stream, ranges, &staging))?;
    findings.correct("copies", "gather, copy, scatter through two staging buffers", outcome);
    for peer in &contexts[1..] {
        let what = format!("kv_peer_store to {}", peer.device());
        match first.enable_peer(peer) {
            Err(error) => findings.not_run("copies", what, error.to_string()),
            Ok(()) => {
                let there = Bench::new(first, peer, rounds, &mut rng)?;
                let outcome = there.rounds(kernels, &mut rng, |kernels, stream, ranges| Ok(kernels.peer_store(stream, ranges)?))?;
                findings.correct("copies", what, outcome);
            }
        }
    }
    if contexts.len() == 1 {
        findings.not_run("copies", "kv_peer_store to another GPU", "this machine shows one GPU");
    }
    Ok(())
}

/// Through staging as a hand-off between two GPUs goes, in windows smaller than the plan.
fn staged(kernels: &mut Kernels, stream: &Stream, ranges: &[CopyRange<'_>], staging: &[DeviceMemory; 2]) -> anyhow::Result<()> {
    let [first, second] = staging;
    ensure!(first.size().0 >= STAGING_MIN_BYTES, "staging too small");
    for window in windows(ranges.iter().map(|range| (range.from.ptr().0, range.from.bytes())), first.size().0) {
        kernels.gather(stream, &window.gather(ranges, first.whole())?)?;
        stream.copy_async(second.span(0, window.bytes)?, first.span(0, window.bytes)?)?;
        kernels.scatter(stream, &window.scatter(ranges, second.whole())?)?;
    }
    Ok(())
}

/// Two memories and their content.
struct Bench {
    rounds: usize,
    stream: Stream,
    source: DeviceMemory,
    target: DeviceMemory,
    content: Vec<u8>,
}

impl Bench {
    fn new(from: &Context, to: &Context, rounds: usize, rng: &mut ChaCha8Rng) -> anyhow::Result<Bench> {
        let mut content = vec![0; MEMORY.0 as usize];
        rng.fill(&mut content[..]);
        let bench = Bench { rounds, stream: from.stream()?, source: from.allocate(MEMORY)?, target: to.allocate(MEMORY)?, content };
        bench.stream.write(bench.source.whole(), &bench.content)?;
        Ok(bench)
    }

    /// The first difference from the reference, or how much was compared.
    fn rounds(
        &self,
        kernels: &mut Kernels,
        rng: &mut ChaCha8Rng,
        copy: impl Fn(&mut Kernels, &Stream, &[CopyRange<'_>]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Result<String, String>> {
        let (mut total, mut count) = (0, 0);
        let mut records = Vec::new();
        for round in 0..self.rounds {
            let ranges = random_ranges(rng);
            let spans: Vec<CopyRange<'_>> = ranges
                .iter()
                .map(|range| {
                    Ok(CopyRange {
                        from: self.source.span(range.source, range.length)?,
                        to: self.target.span(range.target, range.length)?,
                    })
                })
                .collect::<anyhow::Result<_>>()?;
            let fill = rng.random();
            // One block, few, the default's order, and more than there is work for.
            kernels.set_grid_blocks_max([1, 3, 16, 1_000][round % 4]);
            let on_target = self.target.context().stream()?;
            on_target.fill_async(self.target.whole(), fill)?;
            on_target.synchronize()?;
            copy(kernels, &self.stream, &spans)?;
            self.stream.synchronize()?;
            let found = on_target.read(self.target.whole())?;

            let bytes = records_into(ranges.iter().copied(), &mut records);
            let mut expected = vec![fill; self.content.len()];
            reference::copy_ranges(&self.content, &mut expected, &records, bytes);
            // Whole slices first: byte by byte takes a debug build most of the check's time.
            let wrong = (found != expected).then(|| found.iter().zip(&expected).position(|(found, expected)| found != expected));
            if let Some(at) = wrong.flatten() {
                let range = ranges.iter().find(|range| (range.target..range.target + range.length).contains(&(at as u64)));
                return Ok(Err(format!("round {round} of {} ranges: byte {at} differs, of {range:?}", ranges.len())));
            }
            total += bytes;
            count += ranges.len();
        }
        Ok(Ok(format!("{} rounds, {count} ranges, {:.2} GB", self.rounds, total as f64 / 1e9)))
    }
}

/// Lengths from nothing to megabytes and every alignment of both ends, apart from each other in the target, in no order.
fn random_ranges(rng: &mut ChaCha8Rng) -> Vec<ByteRange> {
    let length_max: u64 = [40, 1_000, 40_000, 4_000_000][rng.random_range(0..4)];
    let word: u64 = [1, 2, 4, 8, 16][rng.random_range(0..5)];
    // More than one launch takes, now and then.
    let count = if length_max == 40 { 40_000 } else { rng.random_range(1..3_000) };
    let (mut source, mut target) = (0, 0);
    let mut ranges = Vec::new();
    for _ in 0..count {
        let length = rng.random_range(0..=length_max);
        let length = if rng.random_bool(0.5) { length } else { length.next_multiple_of(word) };
        source += word * rng.random_range(0..5);
        target += word * rng.random_range(0..5);
        if source.max(target) + length > MEMORY.0 {
            break;
        }
        ranges.push(ByteRange { source, target, length });
        source += length;
        target += length;
    }
    ranges.reverse();
    ranges
}
