//! `dualpool topology`

use std::path::PathBuf;
use std::process::ExitCode;

use dualpool_bench::targets::topology_probe;
use dualpool_machine::topology;
use dualpool_types::Failure;

use super::terminal::print;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Read the machine that a file shows, as `lstopo FILE.xml` wrote it, instead of this one.
    #[arg(long, value_name = "FILE")]
    from_xml: Option<PathBuf>,
    /// Copy between each two GPUs and keep how fast it was; takes memory and time of the GPUs.
    #[arg(long, conflicts_with = "from_xml")]
    measure: bool,
    /// Print topology.json instead of the matrix.
    #[arg(long)]
    json: bool,
    /// Folder for topology.json and topology.svg.
    #[arg(long, value_name = "DIR", default_value = topology_probe::LATEST)]
    out: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let found = match &args.from_xml {
        Some(file) => topology::of_file(file),
        None => topology::of_machine(None),
    };
    let mut found = found.map_err(anyhow::Error::from)?;
    if args.measure {
        topology::measure(&mut found);
    }
    topology_probe::keep(&args.out, &found)?;
    print(&topology_probe::shown(&args.out, &found, args.json)?)?;
    Ok(ExitCode::SUCCESS)
}
