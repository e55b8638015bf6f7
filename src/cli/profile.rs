//! `dualpool profile`: a run of which every part is looked at closely.

use std::process::ExitCode;

use clap::ValueEnum;

use dualpool_bench::targets::dual_pool::DualPool;
use dualpool_types::{Arm, Failure};

use super::Cli;
use super::flags::SettingFlags;
use super::run::{Order, carry_out};
use super::terminal::Terminal;

#[derive(clap::Args)]
pub(super) struct Args {
    /// What to look at.
    subject: Subject,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// Every request changes engines after its prefill: how its KV moves, and what the engines do meanwhile.
    Migration,
}

pub(super) fn run(args: &Args, cli: &Cli, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let Subject::Migration = args.subject;
    // Unless flags say otherwise.
    let defaults = [("run.arms", Arm::FullDisaggregation.name()), ("run.repetitions", "1"), ("telemetry.profile", "nsys")];
    let settings = args.settings.clone().with_defaults("dualpool profile migration", &defaults);
    carry_out(&Order::by_settings(&DualPool, false, settings), cli, terminal)
}
