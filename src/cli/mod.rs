//! The command line, one file per subcommand.

mod calibrate;
mod completions;
mod config;
mod doctor;
mod failure;
mod flags;
pub mod fleet;
mod hold_gpu_memory;
mod interrupt;
mod list_targets;
mod log;
mod progress;
mod report;
mod run;
mod terminal;
mod top;
mod topology;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{FlagValue, Loaded, Sources};
use crate::device::Gpus;
use flags::SettingFlags;
use terminal::Terminal;

/// Splits real vLLM engines into a prefill and a decode pool, moves KV blocks between them, and measures whether that helped.
#[derive(Parser)]
#[command(name = "dualpool", version, max_term_width = 110)]
struct Cli {
    /// Settings file [default: ./dualpool.toml, if there is one].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Log more: -v for what happens, -vv for details, -vvv for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a benchmark target: its table goes to the terminal, its artifacts into a folder.
    Run(run::Args),
    /// Measure what copying KV costs between this machine's devices, for later runs to know (`run migration_cost`).
    Calibrate(calibrate::Args),
    /// List what `run` can run.
    ListTargets,
    /// Watch a run while it goes on, and this machine's GPUs.
    Top(top::Args),
    /// Rebuild the table and report.html from a run's artifacts.
    Report(report::Args),
    /// Show what this machine is made of, or the one that a file shows: GPUs, NUMA nodes, NICs, and how far apart they are.
    Topology(topology::Args),
    /// Print the effective settings and where each came from.
    Config(config::Args),
    /// Check that everything a run needs is there; each missing thing comes with the command that mends it.
    Doctor(doctor::Args),
    /// Print a completion script for a shell.
    Completions(completions::Args),
    /// Hold GPU memory for a virtual engine until standard input ends; started by `run`.
    #[command(hide = true)]
    HoldGpuMemory(hold_gpu_memory::Args),
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let terminal = Terminal::new();
    let result = match &cli.command {
        Command::Run(args) => run::run(args, &cli, &terminal),
        Command::Calibrate(args) => calibrate::run(args, &cli, &terminal),
        Command::ListTargets => list_targets::run(),
        Command::Top(args) => top::run(args),
        Command::Report(args) => report::run(args),
        Command::Topology(args) => topology::run(args),
        Command::Config(args) => config::run(args, &cli),
        Command::Doctor(args) => doctor::run(args, &cli),
        Command::Completions(args) => completions::run(args),
        Command::HoldGpuMemory(args) => hold_gpu_memory::run(args),
    };
    result.unwrap_or_else(|error| failure::print(&error))
}

impl Cli {
    /// The settings of this command on this machine.
    fn settings(&self, flags: &SettingFlags, gpus: &Gpus) -> anyhow::Result<Loaded> {
        let mut flags = flags.values();
        if let Some(filter) = log::filter(self.verbose) {
            flags.push(FlagValue { flag: "-v".into(), key: "telemetry.log".into(), text: filter.into() });
        }
        Ok(crate::config::load(&Sources::of_process(self.config.clone(), flags, gpus.len()))?)
    }
}
