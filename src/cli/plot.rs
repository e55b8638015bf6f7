//! `dualpool plot DIR...`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};

use dualpool_report::picture::{Picture, png};
use dualpool_report::simulated::load_simulation;
use dualpool_report::{LoadError, workload_folders};
use dualpool_types::Failure;

use super::terminal::print;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Folders of runs, or of simulations (`simulate --out`); of several folders or workloads, all arms are in one picture.
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
    /// The SVG [default: plot.svg in the first folder, when no PNG is asked for].
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The same as PNG.
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut pictures = Vec::with_capacity(args.folders.len());
    for folder in &args.folders {
        // Of a run of several workloads all of them.
        for folder in workload_folders(folder)?.unwrap_or_else(|| vec![folder.clone()]) {
            pictures.push((name(&folder), picture(&folder)?));
        }
    }
    if pictures.iter().all(|(_, picture)| picture.is_blank()) {
        let folders = args.folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(anyhow!("there are no records to draw in {folders}; give the folder of a run that served requests").into());
    }
    let svg = Picture::joined(pictures).svg();
    let default = (args.svg.is_none() && args.png.is_none()).then(|| args.folders[0].join("plot.svg"));
    if let Some(path) = args.svg.as_ref().or(default.as_ref()) {
        write(path, svg.as_bytes())?;
    }
    if let Some(path) = &args.png {
        write(path, &png(&svg).map_err(anyhow::Error::from)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn picture(folder: &Path) -> Result<Picture, LoadError> {
    Ok(match load_simulation(folder)? {
        Some(simulated) => Picture::of_simulation(&simulated),
        None => Picture::of_run(&dualpool_report::load(folder)?),
    })
}

/// A folder's own name, for where it lies says little.
fn name(folder: &Path) -> String {
    folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}; choose another place", path.display()))?;
    print(&format!("{}\n", path.display()))
}
