//! `dualpool explain DIR`

use std::path::PathBuf;
use std::process::ExitCode;

use dualpool_report::explain::{explain, table, told};
use dualpool_types::{Failure, RequestId};

use super::terminal::print;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder of a run or a simulation that was made with --explain.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Show every decision about one request, with the terms of every candidate; its `id` in requests.jsonl, of a simulation its `index`.
    #[arg(long, value_name = "ID")]
    request: Option<u64>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let text = match args.request {
        Some(request) => told(&args.folder, RequestId(request)),
        None => explain(&args.folder).map(|workloads| workloads.iter().map(table).collect::<Vec<_>>().join("\n")),
    };
    print(&text?)?;
    Ok(ExitCode::SUCCESS)
}
