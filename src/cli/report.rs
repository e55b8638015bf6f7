//! `dualpool report DIR`

use std::path::PathBuf;
use std::process::ExitCode;

use super::terminal::{columns, print};
use crate::harness::topology_probe;
use crate::report::simulated::{load_simulation, table};
use crate::report::{self, topology};

#[derive(clap::Args)]
pub struct Args {
    /// The folder of a run, as `dualpool run` printed it, or of a simulation.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // A folder has a run, a simulation or a topology.
    if args.folder.join(topology::FILE).is_file() {
        let found = topology::load_topology(&args.folder)?;
        print(&topology::text(&found))?;
        print(&format!("drawing: {}\n", topology_probe::draw(&args.folder, &found)?.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(simulated) = load_simulation(&args.folder)? {
        print(&table(&simulated))?;
        return Ok(ExitCode::SUCCESS);
    }
    let artifacts = report::load(&args.folder)?;
    print(&report::print(&artifacts, columns()))?;
    print(&format!("report: {}\n", report::write_html(&args.folder)?.display()))?;
    Ok(ExitCode::SUCCESS)
}
