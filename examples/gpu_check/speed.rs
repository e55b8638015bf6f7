//! Bytes per second of gather and scatter, beside what the GPU does in one large copy of the same size in the same run.

use std::time::Instant;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use dualpool_cuda::kernels::Kernels;
use dualpool_cuda::{Context, CopyRange, DeviceMemory, Stream, Timing};
use dualpool_types::Bytes;

use crate::findings::{Findings, Target};

const REPETITIONS: usize = 9;
const SIZES: [u64; 3] = [64 << 20, 256 << 20, 1 << 30];
const RANGE_BYTES: [u64; 4] = [16 << 10, 32 << 10, 256 << 10, 2 << 20];
const CAPS: [u32; 5] = [4, 8, 16, 32, 64];

const CEILING_SHARE_MIN: f64 = 0.9;
const AGAINST_CALLS_MIN: f64 = 5.0;

/// Copied before every measured piece of work, so that all of it is queued before the GPU comes to it: a few milliseconds.
const HOLD_COPIES: usize = 16;

pub struct Field {
    context: Context,
    stream: Stream,
    /// Twice the largest size: ranges stand in it with gaps.
    scattered: DeviceMemory,
    staging: DeviceMemory,
    hold: DeviceMemory,
}

impl Field {
    pub fn new(context: &Context) -> anyhow::Result<Field> {
        let largest = SIZES[SIZES.len() - 1];
        Ok(Field {
            context: context.clone(),
            stream: context.stream()?,
            scattered: context.allocate(Bytes(2 * largest))?,
            staging: context.allocate(Bytes(largest))?,
            hold: context.allocate(Bytes(1 << 30))?,
        })
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Ranges of this length from every second place of the memory, in shuffled order, to a dense staging buffer.
    pub fn gathered(&self, bytes: u64, range_bytes: u64) -> anyhow::Result<Vec<CopyRange<'_>>> {
        let mut places: Vec<u64> = (0..bytes / range_bytes).collect();
        places.shuffle(&mut ChaCha8Rng::seed_from_u64(bytes ^ range_bytes));
        let copy = |(i, place): (usize, u64)| {
            let from = self.scattered.span(2 * place * range_bytes, range_bytes)?;
            Ok(CopyRange { from, to: self.staging.span(i as u64 * range_bytes, range_bytes)? })
        };
        places.into_iter().enumerate().map(copy).collect()
    }

    /// Median (GPU milliseconds, host microseconds to queue it).
    fn timed(&self, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<(f64, f64)> {
        let (start, end) = (self.context.event(Timing::On)?, self.context.event(Timing::On)?);
        work()?;
        let (mut gpu_ms, mut submit_us) = (Vec::new(), Vec::new());
        for _ in 0..REPETITIONS {
            let half = self.hold.size().0 / 2;
            for _ in 0..HOLD_COPIES {
                self.stream.copy_async(self.hold.span(0, half)?, self.hold.span(half, half)?)?;
            }
            start.record(&self.stream)?;
            let queued_from = Instant::now();
            work()?;
            submit_us.push(queued_from.elapsed().as_secs_f64() * 1e6);
            end.record(&self.stream)?;
            self.stream.synchronize()?;
            gpu_ms.push(end.ms_since(&start)?);
        }
        Ok((median(gpu_ms), median(submit_us)))
    }

    /// Median milliseconds from the first call to the last byte.
    fn wall(&self, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
        let mut ms = Vec::new();
        for _ in 0..=REPETITIONS {
            self.stream.synchronize()?;
            let from = Instant::now();
            work()?;
            self.stream.synchronize()?;
            ms.push(from.elapsed().as_secs_f64() * 1e3);
        }
        // The first one warms up.
        Ok(median(ms.split_off(1)))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn gb_per_s(bytes: u64, ms: f64) -> f64 {
    bytes as f64 / ms / 1e6
}

pub fn measure(context: &Context, kernels: &mut Kernels, findings: &mut Findings) -> anyhow::Result<()> {
    let field = Field::new(context)?;
    shares_of_the_ceiling(&field, kernels, findings)?;
    caps(&field, kernels, findings)?;
    against_calls(&field, kernels, findings)
}

fn shares_of_the_ceiling(field: &Field, kernels: &mut Kernels, findings: &mut Findings) -> anyhow::Result<()> {
    kernels.set_grid_blocks_max(all_blocks(&field.context));
    for bytes in SIZES {
        let mib = bytes >> 20;
        let one_copy = || Ok(field.stream.copy_async(field.staging.span(0, bytes)?, field.scattered.span(0, bytes)?)?);
        let ceiling = gb_per_s(bytes, field.timed(one_copy)?.0);
        findings.figure("speed", format!("one copy of {mib} MiB (the ceiling)"), ceiling, "GB/s", None);
        for range_bytes in RANGE_BYTES {
            let gather = field.gathered(bytes, range_bytes)?;
            let scatter: Vec<CopyRange<'_>> = gather.iter().map(|range| CopyRange { from: range.to, to: range.from }).collect();
            let of = format!("{mib} MiB in ranges of {} KiB, no cap", range_bytes >> 10);
            let target = Some(Target::AtLeast(CEILING_SHARE_MIN));
            let (ms, submit_us) = field.timed(|| Ok(kernels.gather(&field.stream, &gather)?))?;
            let speed = gb_per_s(bytes, ms);
            findings.figure("speed", format!("gather, {of}"), speed, "GB/s", None);
            findings.figure("speed", format!("gather, {of}: share of the ceiling"), speed / ceiling, "", target);
            findings.figure("speed", format!("gather, {of}: submission"), submit_us, "us", None);
            let (ms, _) = field.timed(|| Ok(kernels.scatter(&field.stream, &scatter)?))?;
            let share = gb_per_s(bytes, ms) / ceiling;
            findings.figure("speed", format!("scatter, {of}: share of the ceiling"), share, "", target);
        }
    }
    Ok(())
}

/// More blocks than this find no place on the GPU at once.
pub fn all_blocks(context: &Context) -> u32 {
    2 * context.device().multiprocessors
}

fn caps(field: &Field, kernels: &mut Kernels, findings: &mut Findings) -> anyhow::Result<()> {
    let bytes = SIZES[1];
    let gather = field.gathered(bytes, 32 << 10)?;
    for cap in CAPS {
        kernels.set_grid_blocks_max(cap);
        let (ms, _) = field.timed(|| Ok(kernels.gather(&field.stream, &gather)?))?;
        let what = format!("gather, {} MiB in ranges of 32 KiB, at most {cap} blocks", bytes >> 20);
        findings.figure("speed", what, gb_per_s(bytes, ms), "GB/s", None);
    }
    Ok(())
}

/// From the call to the last byte, since it is the calls that cost.
fn against_calls(field: &Field, kernels: &mut Kernels, findings: &mut Findings) -> anyhow::Result<()> {
    let bytes = SIZES[0];
    let ranges = field.gathered(bytes, 32 << 10)?;
    kernels.set_grid_blocks_max(all_blocks(&field.context));
    let one_call_each = field.wall(|| Ok(ranges.iter().try_for_each(|range| field.stream.copy_async(range.to, range.from))?))?;
    let batch = field.wall(|| Ok(field.stream.copy_batch_async(&ranges)?))?;
    let gather = field.wall(|| Ok(kernels.gather(&field.stream, &ranges)?))?;
    let of = format!("{} MiB in ranges of 32 KiB, from call to last byte", bytes >> 20);
    findings.figure("speed", format!("{of}: one copy call per range"), one_call_each, "ms", None);
    findings.figure("speed", format!("{of}: one batch call"), batch, "ms", None);
    findings.figure("speed", format!("{of}: gather"), gather, "ms", None);
    let target = Some(Target::AtLeast(AGAINST_CALLS_MIN));
    findings.figure("speed", format!("{of}: gather against one call per range"), one_call_each / gather, "times", target);
    Ok(())
}
