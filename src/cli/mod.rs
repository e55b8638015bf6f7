//! The command line, one file per subcommand.

mod calibrate;
mod completions;
mod config;
mod doctor;
mod drain;
mod dry_run;
mod explain;
mod failure;
mod flags;
mod hold_gpu_memory;
mod interrupt;
mod list_targets;
mod log;
mod plot;
mod profile;
mod progress;
mod report;
mod resume;
mod run;
mod session;
mod simulate;
mod terminal;
mod top;
mod topology;
mod torture;
mod unheeded;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use dualpool_bench::FlagValue;
use dualpool_fleet::program;
use dualpool_machine::Gpus;
use dualpool_types::{Failure, USAGE};

use crate::config::{Loaded, Sources};
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
    /// What the program was called with, without its own name.
    #[arg(skip)]
    arguments: Vec<OsString>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a benchmark target: its table goes to the terminal, its artifacts into a folder.
    Run(run::Args),
    /// Measure what copying KV costs between this machine's devices, for later runs to know (`run migration_cost`).
    Calibrate(calibrate::Args),
    /// Look at one thing closely, with NVIDIA's Nsight tools where they are: leaves profile.json in the run's folder.
    Profile(profile::Args),
    /// List what `run` can run.
    ListTargets,
    /// Watch a run while it goes on, and this machine's GPUs.
    Top(top::Args),
    /// Serve a modelled fleet's traffic with the real router, in seconds and without engines; every figure is a forecast.
    Simulate(simulate::Args),
    /// Draw runs and simulations: TTFT, ITL, share within objectives and queue depth, as SVG and PNG.
    Plot(plot::Args),
    /// Say why requests went where they went, of all or of one, from what a run or a simulation noted with --explain.
    Explain(explain::Args),
    /// Empty an engine while a run goes on: its requests move to others, and it gets no new ones.
    Drain(drain::Args),
    /// Rebuild the table and report.html from a run's artifacts.
    Report(report::Args),
    /// Show what this machine is made of, or the one that a file shows: GPUs, NUMA nodes, NICs, and how far apart they are.
    Topology(topology::Args),
    /// Simulate fleets, clients and faults drawn at random, and check after each that all went as it must.
    Torture(torture::Args),
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
    execute(std::env::args_os())
}

/// The command line that follows the program's name, run inside a process that goes on afterwards.
#[cfg(feature = "extension-module")]
pub fn run_hosted(arguments: Vec<OsString>) -> u8 {
    let code = execute([OsString::from("dualpool")].into_iter().chain(arguments));
    // No other code flushes it; an error means that it is closed, and cannot be shown.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    // An `ExitCode` does not tell its number, but it compares.
    (0..=u8::MAX).find(|&number| ExitCode::from(number) == code).unwrap_or(dualpool_types::FAILED)
}

fn execute(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => Cli { arguments: arguments.into_iter().skip(1).collect(), ..cli },
        Err(error) => {
            // Also `--help` and `--version`, which are no failures. An error means that the output is closed, and cannot be shown.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let terminal = Terminal::new();
    cli.carry_out(&terminal).unwrap_or_else(|failure| failure::print(&failure))
}

impl Cli {
    fn carry_out(&self, terminal: &Terminal) -> Result<ExitCode, Failure> {
        Ok(match &self.command {
            Command::Run(args) => run::run(args, self, terminal)?,
            Command::Calibrate(args) => calibrate::run(args, self, terminal)?,
            Command::Profile(args) => profile::run(args, self, terminal)?,
            Command::ListTargets => list_targets::run()?,
            Command::Top(args) => top::run(args)?,
            Command::Simulate(args) => simulate::run(args, self, terminal)?,
            Command::Plot(args) => plot::run(args)?,
            Command::Explain(args) => explain::run(args)?,
            Command::Drain(args) => drain::run(args)?,
            Command::Report(args) => report::run(args)?,
            Command::Topology(args) => topology::run(args)?,
            Command::Torture(args) => torture::run(args)?,
            Command::Config(args) => config::run(args, self)?,
            Command::Doctor(args) => doctor::run(args, self)?,
            Command::Completions(args) => completions::run(args)?,
            Command::HoldGpuMemory(args) => hold_gpu_memory::run(args)?,
        })
    }

    /// The settings of this command on this machine.
    fn settings(&self, flags: &SettingFlags, gpus: &Gpus) -> Result<Loaded, Failure> {
        let mut flags = flags.values();
        if let Some(home) = program::environment()? {
            let text = home.display().to_string();
            flags.insert(0, FlagValue { flag: "python -m dualpool".into(), key: "engine.venv".into(), text });
        }
        if let Some(filter) = log::filter(self.verbose) {
            flags.push(FlagValue { flag: "-v".into(), key: "telemetry.log".into(), text: filter.into() });
        }
        Ok(crate::config::load(&Sources::of_process(self.config.clone(), flags, gpus.len()))?)
    }
}
