//! `dualpool report DIR`

use std::path::PathBuf;
use std::process::ExitCode;

use super::terminal::columns;
use crate::report;

#[derive(clap::Args)]
pub struct Args {
    /// The folder of a run, as `dualpool run` printed it.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let artifacts = report::load(&args.folder)?;
    print!("{}", report::print(&artifacts, columns()));
    let html = report::write_html(&args.folder)?;
    println!("report: {}", html.display());
    Ok(ExitCode::SUCCESS)
}
