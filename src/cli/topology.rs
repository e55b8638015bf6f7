//! `dualpool topology`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dualpool_bench::topology_probe;
use dualpool_machine::topology;
use dualpool_report::topology::{FILE, text};
use dualpool_types::topology::Topology;

use super::terminal::print;

#[derive(clap::Args)]
pub struct Args {
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

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut found = match &args.from_xml {
        Some(file) => topology::of_file(file)?,
        None => topology::of_machine(None)?,
    };
    if args.measure {
        topology::measure(&mut found);
    }
    topology_probe::keep(&args.out, &found)?;
    show(&args.out, &found, args.json)
}

/// The same of this machine, kept as a run of its own.
pub fn probe(out: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let found = topology::of_machine(None)?;
    let dir = topology_probe::keep_run(out, &found)?;
    show(&dir, &found, json)
}

fn show(dir: &Path, found: &Topology, json: bool) -> anyhow::Result<ExitCode> {
    let shown = if json {
        serde_json::to_string_pretty(found)? + "\n"
    } else {
        format!("{}\nartifacts: {}\n", text(found), dir.join(FILE).display())
    };
    print(&shown)?;
    Ok(ExitCode::SUCCESS)
}
