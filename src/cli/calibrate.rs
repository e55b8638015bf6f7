//! `dualpool calibrate`, which is `dualpool run migration_cost` by another name.

use std::process::ExitCode;

use super::flags::SettingFlags;
use super::progress::Bars;
use super::terminal::{Terminal, columns, print};
use super::{Cli, program, run};
use crate::config::Settings;
use crate::device::{self, Gpus, Machine};
use crate::harness::migration_cost::{self, Calibrated, Here, Scale};
use crate::harness::target;

#[derive(clap::Args)]
pub struct Args {
    /// Print migration_cost.json instead of the tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

pub fn run(args: &Args, cli: &Cli, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    run::run(&run::Args::of(target::MIGRATION_COST, args.json, args.settings.clone()), cli, terminal)
}

/// Measures, writes both files and prints what came of it.
pub fn measure(settings: &Settings, gpus: &Gpus, json: bool, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    let placements = device::choose(&settings.pools, gpus)?;
    let scale = if settings.run.quick { Scale::QUICK } else { Scale::FULL };
    let here = Here { machine: Machine::detect(gpus), program: program::again()?, command: program::command_line() };
    let bars = Bars::new(terminal);
    let Calibrated { cost, artifact, calibration } = migration_cost::run(settings, &scale, &placements, here, &bars)?;
    bars.finish();
    if json {
        print(&(serde_json::to_string_pretty(&cost)? + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let read = calibration.map(|path| format!("read by runs: {}\n", path.display())).unwrap_or_default();
    print(&format!("{}\nmeasured:     {}\n{read}", migration_cost::table(&cost, columns()), artifact.display()))?;
    Ok(ExitCode::SUCCESS)
}
