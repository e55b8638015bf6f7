//! `dualpool profile`: a run of which every part is looked at closely.

use std::process::ExitCode;

use clap::ValueEnum;
use thiserror::Error;

use dualpool_bench::targets::dual_pool::DualPool;
use dualpool_types::{Arm, Failure, UserError};

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
    /// Every request changes engines after its prompt: how its KV is transferred, and what the engines do meanwhile.
    Handoff,
    /// The name that `handoff` had.
    #[value(hide = true)]
    Migration,
}

#[derive(Debug, Error)]
#[error("`dualpool profile migration` is called `dualpool profile handoff` now")]
struct Renamed;

impl UserError for Renamed {
    fn hint(&self) -> &'static str {
        "it profiles hand-offs of prompts; docs/profiling.md says how"
    }
}

pub(super) fn run(args: &Args, cli: &Cli, terminal: &Terminal) -> Result<ExitCode, Failure> {
    if let Subject::Migration = args.subject {
        Err(Renamed)?;
    }
    // Unless flags say otherwise.
    let defaults = [("run.arms", Arm::FullDisaggregation.name()), ("run.repetitions", "1"), ("telemetry.profile", "nsys")];
    let settings = args.settings.clone().with_defaults("dualpool profile handoff", &defaults);
    carry_out(&Order::by_settings(&DualPool, false, settings), cli, terminal)
}
