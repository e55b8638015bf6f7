//! `dualpool calibrate`, which is `dualpool run migration_cost` by another name, or with `--engine` `dualpool run engine_timing`.

use std::process::ExitCode;

use dualpool_bench::target::Target;
use dualpool_bench::targets::engine_timing::EngineCalibration;
use dualpool_bench::targets::migration_cost::CopyCalibration;
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
    /// Print migration_cost.json, or engine_timing.json, instead of the tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

pub(super) fn run(args: &Args, cli: &Cli, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let target: &'static dyn Target = if args.engine { &EngineCalibration } else { &CopyCalibration };
    carry_out(&Order::by_settings(target, args.json, args.settings.clone()), cli, terminal)
}
