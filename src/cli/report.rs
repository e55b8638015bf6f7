//! `dualpool report DIR`

use std::path::PathBuf;
use std::process::ExitCode;

use dualpool_bench::targets::topology_probe;
use dualpool_report::simulated::{load_simulation, table};
use dualpool_report::{settle, topology};
use dualpool_types::Failure;

use super::terminal::{columns, print};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder of a run, as `dualpool run` printed it, or of a simulation.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Print everything that report.html says in words: all verdicts, reasons, caveats and notes.
    #[arg(long)]
    full: bool,
    /// Print also how TTFT and TPOT settled in the course of a repetition, arm by arm.
    #[arg(long)]
    settle: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    // A folder has a run, a simulation or a topology.
    if args.folder.join(topology::FILE).is_file() {
        let found = topology::load_topology(&args.folder).map_err(anyhow::Error::from)?;
        print(&topology::text(&found))?;
        print(&format!("drawing: {}\n", topology_probe::draw(&args.folder, &found)?.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(simulated) = load_simulation(&args.folder)? {
        print(&table(&simulated))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (i, artifacts) in dualpool_report::load_workloads(&args.folder)?.iter().enumerate() {
        // Before the text that names it.
        let page = dualpool_report::write_html(&artifacts.dir).map_err(anyhow::Error::from)?;
        let gap = if i > 0 { "\n\n" } else { "" };
        let text = match args.full {
            true => format!("{}report: {}\n", dualpool_report::print_full(artifacts, columns()), page.display()),
            false => dualpool_report::print(artifacts, columns()),
        };
        print(&format!("{gap}{text}"))?;
        if args.settle {
            print(&format!("\n{}", settle::table(artifacts)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
