//! What copies without a pause cost a matrix product beside them, by the cap on the copies' grid.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dualpool_cuda::Context;
use dualpool_cuda::kernels::Kernels;
use dualpool_kv::COPY_GRID_BLOCKS;

use crate::cublas::Product;
use crate::findings::{Findings, Target};
use crate::speed::{Field, all_blocks};

const PRODUCTS: u32 = 40;
const ROUNDS: usize = 5;
const SLOWDOWN_MAX_PERCENT: f64 = 5.0;
const COPY_BYTES: u64 = 256 << 20;
const RANGE_BYTES: u64 = 32 << 10;

pub fn measure(context: &Context, kernels: &mut Kernels, folders: &[PathBuf], findings: &mut Findings) -> anyhow::Result<()> {
    let product = match Product::load(context, folders) {
        Ok(product) => product,
        Err(error) => {
            findings.not_run("matrix product", "its slowdown by copies in the same process", format!("{error:#}"));
            return Ok(());
        }
    };
    let field = Field::new(context)?;
    product.ms(PRODUCTS)?;
    let mut caps = vec![4, 8, 16, 32, 64, all_blocks(context)];
    if !caps.contains(&COPY_GRID_BLOCKS) {
        caps.push(COPY_GRID_BLOCKS);
    }
    for cap in caps {
        kernels.set_grid_blocks_max(cap);
        // Alone before each, so that a change of clocks does not count as the copies' doing.
        let mut slowdowns = Vec::new();
        let mut speeds = Vec::new();
        for _ in 0..ROUNDS {
            let alone = product.ms(PRODUCTS)?;
            let (beside, speed) = beside_copies(&product, &field, kernels)?;
            slowdowns.push((beside / alone - 1.0) * 100.0);
            speeds.push(speed);
        }
        slowdowns.sort_by(f64::total_cmp);
        speeds.sort_by(f64::total_cmp);
        let target = (cap == COPY_GRID_BLOCKS).then_some(Target::AtMost(SLOWDOWN_MAX_PERCENT));
        let what = format!("slowdown by copies in the same process, at most {cap} blocks");
        findings.figure("matrix product", what, slowdowns[ROUNDS / 2], "%", target);
        findings.figure("matrix product", format!("the copies' speed, at most {cap} blocks"), speeds[ROUNDS / 2], "GB/s", None);
    }
    Ok(())
}

/// Milliseconds per product, and GB/s of the copies that went on all the while.
fn beside_copies(product: &Product, field: &Field, kernels: &mut Kernels) -> anyhow::Result<(f64, f64)> {
    let (stop, started) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let copier = scope.spawn(|| copy_until(field, kernels, &stop, &started));
        while !started.load(Ordering::Acquire) && !copier.is_finished() {
            std::thread::yield_now();
        }
        let ms = product.ms(PRODUCTS);
        stop.store(true, Ordering::Release);
        let speed = copier.join().expect("the copier does not panic")?;
        Ok((ms?, speed))
    })
}

/// Gathers without a pause, with as many launches under way as the kernels allow.
fn copy_until(field: &Field, kernels: &mut Kernels, stop: &AtomicBool, started: &AtomicBool) -> anyhow::Result<f64> {
    let ranges = field.gathered(COPY_BYTES, RANGE_BYTES)?;
    kernels.gather(field.stream(), &ranges)?;
    field.stream().synchronize()?;
    started.store(true, Ordering::Release);
    let (from, mut copies) = (Instant::now(), 0u32);
    while !stop.load(Ordering::Acquire) {
        kernels.gather(field.stream(), &ranges)?;
        copies += 1;
    }
    field.stream().synchronize()?;
    Ok(f64::from(copies) * COPY_BYTES as f64 / from.elapsed().as_secs_f64() / 1e9)
}

pub fn load(context: &Context, folders: &[PathBuf], grid_blocks: u32) -> anyhow::Result<()> {
    let mut kernels = Kernels::load(context, folders, grid_blocks)?;
    let field = Field::new(context)?;
    let (stop, started) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let copier = scope.spawn(|| copy_until(&field, &mut kernels, &stop, &started));
        while !started.load(Ordering::Acquire) && !copier.is_finished() {
            std::thread::yield_now();
        }
        println!("ready");
        std::io::stdout().flush()?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        stop.store(true, Ordering::Release);
        let speed = copier.join().expect("the copier does not panic")?;
        println!("{speed:.1}");
        Ok(())
    })
}
