//! What needs a GPU to be checked and measured, in one program without Python: it is built where Rust is and carried to where the GPU is.
//! `scripts/gpu_check` runs it, adds what needs Python, and prints the table.
//!
//!     cargo build --release --no-default-features --example gpu_check
//!
//! It writes its findings to stdout as JSON. Exit code 0: all copies were right; 1: some were not, or it could not go on; 2: no GPU; 64: bad
//! usage.

mod copies;
mod cublas;
mod findings;
mod interference;
mod ipc;
mod speed;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};

use dualpool_cuda::kernels::{Kernels, nvrtc};
use dualpool_cuda::{Context, Driver};
use dualpool_kv::COPY_GRID_BLOCKS;

use self::findings::{Findings, Gpu};

const NO_GPU: u8 = 2;
const BAD_USAGE: u8 = 64;

#[derive(Parser)]
struct Args {
    /// Virtual environment whose NVRTC and cuBLAS may be used
    #[arg(long)]
    venv: Option<PathBuf>,
    /// More folders with libnvrtc and libcublas
    #[arg(long, value_delimiter = ':')]
    libraries: Vec<PathBuf>,
    /// Seed of the random ranges
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Lists of random ranges for each kernel
    #[arg(long, default_value_t = 60)]
    rounds: usize,
    /// Only what is right or wrong; measure nothing
    #[arg(long)]
    no_speed: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Gathers without a pause until stdin ends, as another process that copies beside an engine
    Load {
        #[arg(long, default_value_t = COPY_GRID_BLOCKS)]
        grid_blocks: u32,
    },
    /// The other process of the check of IPC
    #[command(hide = true)]
    IpcPeer,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // An error means that the output is closed, and cannot be shown. clap's own code would be that of a missing GPU.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(BAD_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let contexts = match contexts() {
        Ok(contexts) => contexts,
        Err(why) => {
            eprintln!("no GPU: {why:#}");
            return ExitCode::from(NO_GPU);
        }
    };
    let mut folders = args.libraries.clone();
    folders.extend(nvrtc::folders(args.venv.as_deref()));
    let done = match args.what {
        None => check(&contexts, &folders, &args),
        Some(What::Load { grid_blocks }) => interference::load(&contexts[0], &folders, grid_blocks).map(|()| ExitCode::SUCCESS),
        Some(What::IpcPeer) => ipc::peer(&contexts, &folders).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// One context for every GPU that CUDA shows; at least one.
fn contexts() -> anyhow::Result<Vec<Context>> {
    let devices = Driver::load()?.devices()?;
    if devices.is_empty() {
        bail!("the driver shows none to this process");
    }
    devices.iter().map(|device| Context::retain(device).with_context(|| device.to_string())).collect()
}

fn check(contexts: &[Context], folders: &[PathBuf], args: &Args) -> anyhow::Result<ExitCode> {
    let first = &contexts[0];
    let mut kernels = Kernels::load(first, folders, COPY_GRID_BLOCKS)?;
    let mut findings = Findings {
        gpus: contexts.iter().map(Gpu::of).collect(),
        driver: first.driver().version().to_string(),
        kernels: kernels.origin().to_string(),
        grid_blocks_default: COPY_GRID_BLOCKS,
        seed: args.seed,
        rows: Vec::new(),
    };
    // What one part found is not lost when the next one fails.
    let done = copies::check(contexts, &mut kernels, args.seed, args.rounds, &mut findings);
    findings.went_through("copies", done);
    let done = ipc::check(first, folders, &mut findings);
    findings.went_through("ipc", done);
    if !args.no_speed {
        let done = speed::measure(first, &mut kernels, &mut findings);
        findings.went_through("speed", done);
        let done = interference::measure(first, &mut kernels, folders, &mut findings);
        findings.went_through("matrix product", done);
    }
    println!("{}", serde_json::to_string_pretty(&findings)?);
    Ok(if findings.all_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
