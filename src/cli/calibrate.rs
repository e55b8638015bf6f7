//! `dualpool calibrate`, which is `dualpool run migration_cost` by another name.

use std::process::ExitCode;

use super::flags::SettingFlags;
use super::progress::Bars;
use super::terminal::{Terminal, columns};
use super::{Cli, log};
use crate::config::Settings;
use crate::device::{self, Gpus, Machine};
use crate::harness::migration_cost::{self, Calibrated, Scale};

#[derive(clap::Args)]
pub struct Args {
    /// Print migration_cost.json instead of the tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

pub fn run(args: &Args, cli: &Cli, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    let gpus = Gpus::detect();
    let settings = cli.settings(&args.settings, &gpus)?.settings;
    log::init(&settings.telemetry.log, terminal);
    measure(&settings, &gpus, args.json, terminal)
}

/// Measures, writes both files and prints what came of it.
pub fn measure(settings: &Settings, gpus: &Gpus, json: bool, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    let placements = device::choose(&settings.pools, gpus)?;
    let scale = if settings.run.quick { Scale::QUICK } else { Scale::FULL };
    let bars = Bars::new(terminal);
    let machine = Machine::detect(gpus);
    let Calibrated { cost, artifact, calibration } = migration_cost::run(settings, &scale, &placements, machine, &bars)?;
    bars.finish();
    if json {
        println!("{}", serde_json::to_string_pretty(&cost)?);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", migration_cost::table(&cost, columns()));
    println!("\nmeasured:     {}", artifact.display());
    if let Some(path) = calibration {
        println!("read by runs: {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
