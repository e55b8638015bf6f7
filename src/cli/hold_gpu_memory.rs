//! `dualpool hold-gpu-memory`, which virtual engines with KV memory on a GPU are given as a process.

use std::process::ExitCode;

use dualpool_engine::virtual_engine::kv::serve_gpu_memory;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Which memory on which GPU, as JSON.
    order: String,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    serve_gpu_memory(&args.order)?;
    Ok(ExitCode::SUCCESS)
}
