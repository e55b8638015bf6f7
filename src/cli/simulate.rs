//! `dualpool simulate`, which is `dualpool run simulation` by another name.

use std::process::ExitCode;

use clap::{ArgMatches, Command, FromArgMatches};

use dualpool_bench::targets::simulation::{FleetSimulation, flags};
use dualpool_types::Failure;

use super::Cli;
use super::run::{Order, carry_out};
use super::terminal::Terminal;

/// The target's own flags.
pub(super) struct Args(ArgMatches);

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        flags(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        flags(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Args, clap::Error> {
        Ok(Args(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(super) fn run(args: &Args, cli: &Cli, terminal: &Terminal) -> Result<ExitCode, Failure> {
    carry_out(&Order::by_own_flags(&FleetSimulation, args.0.clone()), cli, terminal)
}
