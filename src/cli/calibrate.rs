//! `dualpool calibrate`, which is `dualpool run migration_cost` by another name, or with `--engine` `dualpool run engine_timing`.

use std::process::ExitCode;

use dualpool_bench::migration_cost::{self, Calibrated, Here, Scale};
use dualpool_bench::{Settings, engine_timing, environment, target};
use dualpool_fleet::program;
use dualpool_machine::{Gpus, Machine};

use super::failure::INTERRUPTED;
use super::flags::SettingFlags;
use super::progress::Bars;
use super::terminal::{Terminal, columns, print};
use super::{Cli, run, session};

#[derive(clap::Args)]
pub struct Args {
    /// What a step costs on the engines, instead: simulations go by it (`run engine_timing`).
    #[arg(long)]
    engine: bool,
    /// Print migration_cost.json, or engine_timing.json, instead of the tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

pub fn run(args: &Args, cli: &Cli, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    let target = if args.engine { target::ENGINE_TIMING } else { target::MIGRATION_COST };
    run::run(&run::Args::of(target, args.json, args.settings.clone()), cli, terminal)
}

/// Measures, writes both files and prints what came of it.
pub fn measure(settings: &Settings, gpus: &Gpus, json: bool, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    let placements = dualpool_machine::choose(&settings.pools, gpus)?;
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

/// Starts the engines, gives them everything to do that the fit needs, and prints what came of it.
pub fn engines(settings: &Settings, gpus: &Gpus, json: bool, terminal: &Terminal) -> anyhow::Result<ExitCode> {
    let placements = dualpool_machine::choose(&settings.pools, gpus)?;
    let links = dualpool_fleet::links(&settings.kv, &settings.virtual_engines, &placements, gpus)?;
    let prepared = engine_timing::prepare(settings, program::command_line())?;
    let settings = prepared.settings().clone();
    let measured = session::with_fleet(&settings, &placements, links.links, terminal, async |controller, bars, cancel| {
        let environment = environment::gather(controller.engines(), &settings, session::gpu_names(&placements));
        prepared.run(controller, environment, bars, cancel).await
    })?;
    let Some((timing, path)) = measured else { return Ok(ExitCode::from(INTERRUPTED)) };
    if json {
        print(&(serde_json::to_string_pretty(&timing)? + "\n"))?;
    } else {
        print(&format!("{}\nmeasured: {}\n", engine_timing::table(&timing, columns()), path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
