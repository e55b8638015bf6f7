//! `dualpool calibrate`, which is `dualpool run migration_cost` by another name, or with `--engine` `dualpool run engine_timing`, or with `--noise`
//! `dualpool run noise`.

use std::process::ExitCode;

use dualpool_bench::target::Target;
use dualpool_bench::targets::engine_timing::EngineCalibration;
use dualpool_bench::targets::migration_cost::CopyCalibration;
use dualpool_bench::targets::noise::NoiseCalibration;
use dualpool_types::Failure;

use super::Cli;
use super::flags::SettingFlags;
use super::run::{Order, carry_out};
use super::terminal::Terminal;

#[derive(clap::Args)]
pub(super) struct Args {
    /// What a step costs on the engines, instead: simulations go by it (`run engine_timing`).
    #[arg(long)]
    engine: bool,
    /// How much identical arms differ on this machine, instead: runs say by it what they can show (`run noise`).
    #[arg(long, conflicts_with = "engine")]
    noise: bool,
    /// Print migration_cost.json, engine_timing.json or noise.json instead of the tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

pub(super) fn run(args: &Args, cli: &Cli, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let target: &'static dyn Target = match (args.engine, args.noise) {
        (true, _) => &EngineCalibration,
        (false, true) => &NoiseCalibration,
        (false, false) => &CopyCalibration,
    };
    carry_out(&Order::by_settings(target, args.json, args.settings.clone()), cli, terminal)
}
