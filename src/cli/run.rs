//! `dualpool run TARGET`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use thiserror::Error;

use dualpool_bench::target::{Call, Done, Flags, Prepared, Target, View};
use dualpool_bench::targets::{self, TARGETS};
use dualpool_bench::{Begin, Settings};
use dualpool_fleet::program;
use dualpool_machine::Gpus;
use dualpool_types::{FAILED, Failure, UserError};

use super::failure::INTERRUPTED;
use super::flags::SettingFlags;
use super::progress::Bars;
use super::terminal::{Terminal, columns, print};
use super::watch::Watched;
use super::{Cli, dry_run, log, resume, session, unheeded};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub(super) struct Args {
    /// What to run; `dualpool list-targets` lists them.
    #[arg(required_unless_present = "resume")]
    target: Option<String>,
    /// Go on with the run in this folder: more repetitions of its arms, at its rate and with its settings. Takes --budget or --repetitions.
    #[arg(long, value_name = "DIR", conflicts_with = "target")]
    resume: Option<PathBuf>,
    /// Print the target's JSON (`dual_pool`: summary.json; `dynamic_router`: an array of one per workload) instead of its table.
    #[arg(long)]
    json: bool,
    /// Print also how TTFT and TPOT settled in the course of a repetition, arm by arm.
    #[arg(long, conflicts_with = "json")]
    settle: bool,
    /// Print what the run would do, after all checks that need no engine. Nothing is started and nothing is written.
    #[arg(long, conflicts_with_all = ["json", "settle", "resume"])]
    dry_run: bool,
    #[command(flatten)]
    settings: SettingFlags,
    #[command(subcommand)]
    own: Option<OwnFlags>,
}

/// A target whose flags are its own altogether, with these.
struct OwnFlags {
    target: &'static dyn Target,
    flags: ArgMatches,
}

fn with_own_flags() -> impl Iterator<Item = (&'static dyn Target, fn(Command) -> Command)> {
    TARGETS.into_iter().filter_map(|target| match target.flags() {
        Flags::Own(augment) => Some((target, augment)),
        Flags::Settings(_) => None,
    })
}

impl Subcommand for OwnFlags {
    fn augment_subcommands(command: Command) -> Command {
        let own = with_own_flags().map(|(target, augment)| augment(Command::new(target.name())).about(target.about()));
        command.subcommands(own)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        with_own_flags().any(|(target, _)| target.name() == name)
    }
}

impl FromArgMatches for OwnFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<OwnFlags, clap::Error> {
        let given = matches.subcommand().and_then(|(name, flags)| Some((targets::find(name).ok()?, flags)));
        let (target, flags) = given.ok_or_else(|| clap::Error::new(clap::error::ErrorKind::MissingSubcommand))?;
        Ok(OwnFlags { target, flags: flags.clone() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Flags stand before a target whose flags are its own altogether, so they are none of its.
#[derive(Debug, Error)]
#[error("{target} has flags of its own, which follow its name: dualpool run {target} [OPTIONS]")]
struct FlagsBefore {
    target: &'static str,
}

impl UserError for FlagsBefore {
    fn hint(&self) -> &'static str {
        "`dualpool run TARGET --help` lists them"
    }
}

/// A target that is to be run, and how.
pub(super) struct Order {
    target: &'static dyn Target,
    settings: SettingFlags,
    /// Of a target whose flags are its own altogether.
    flags: ArgMatches,
    /// The run that is to go on.
    resume: Option<resume::Earlier>,
    json: bool,
    settle: bool,
    dry_run: bool,
}

impl Order {
    pub(super) fn by_settings(target: &'static dyn Target, json: bool, settings: SettingFlags) -> Order {
        Order { target, settings, flags: ArgMatches::default(), resume: None, json, settle: false, dry_run: false }
    }

    pub(super) fn by_own_flags(target: &'static dyn Target, flags: ArgMatches) -> Order {
        Order { flags, ..Order::by_settings(target, false, SettingFlags::default()) }
    }
}

pub(super) fn run(args: &Args, cli: &Cli, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let order = match (&args.own, &args.resume) {
        (Some(OwnFlags { target, flags }), _) => Order::by_own_flags(*target, flags.clone()),
        (None, Some(dir)) => {
            let earlier = resume::Earlier::read(dir, &args.settings)?;
            let order = Order::by_settings(earlier.target, args.json, args.settings.clone());
            Order { settle: args.settle, resume: Some(earlier), ..order }
        }
        (None, None) => {
            let target = targets::find(args.target.as_deref().unwrap_or_default())?;
            if let Flags::Own(_) = target.flags() {
                return Err(FlagsBefore { target: target.name() }.into());
            }
            let (settle, dry_run) = (args.settle, args.dry_run);
            Order { settle, dry_run, ..Order::by_settings(target, args.json, args.settings.clone()) }
        }
    };
    carry_out(&order, cli, terminal)
}

/// Runs a target, watched as the settings have it.
pub(super) fn carry_out(order: &Order, cli: &Cli, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let Order { target, .. } = *order;
    // What is the same on every machine is told of no GPUs.
    let gpus = target.file().map_or_else(Gpus::default, |_| Gpus::detect());
    let flags = order.settings.clone().and(target.set(&order.flags)?);
    let mut loaded = cli.settings(&flags, &gpus)?;
    if let Some(earlier) = &order.resume {
        loaded.settings = earlier.settings(&loaded.settings);
    }
    let settings = &loaded.settings;
    log::init(&settings.telemetry.log, terminal);
    if target.plan().is_some() {
        unheeded::notes(&loaded).iter().for_each(|note| terminal.line(&format!("note: {note}")));
    }
    if order.dry_run {
        print(&dry_run::told(target, &loaded, &gpus)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let run = |settings: &Settings| once(order, settings, &gpus, terminal);
    match target.file() {
        None => run(settings),
        Some(file) => {
            let (name, arguments) = (target.name(), &cli.arguments);
            Watched { settings, target: name, file, arguments, quiet: order.json, terminal }.run(run)
        }
    }
}

fn once(order: &Order, settings: &Settings, gpus: &Gpus, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let (program, command) = (program::again()?, program::command_line());
    let begin = if order.resume.is_some() { Begin::GoOn } else { Begin::Anew };
    let call = Call { settings, flags: &order.flags, gpus, program: &program, command: &command, begin };
    let done = match order.target.prepare(&call)? {
        Prepared::Alone(work) => {
            let bars = Bars::new(terminal);
            let done = work.run(&bars)?;
            bars.finish();
            done
        }
        Prepared::OnFleet(work) => match session::run(work, gpus, terminal)? {
            Some(done) => done,
            None => {
                terminal.line("stopped before the engines were ready; nothing was measured");
                return Ok(ExitCode::from(INTERRUPTED));
            }
        },
    };
    let Done { show, interrupted, faults } = done;
    print(&show(&View { json: order.json, settle: order.settle, columns: columns() })?)?;
    for fault in &faults {
        terminal.line(&format!("error: {fault}; see requests.jsonl in the run folder"));
    }
    Ok(ExitCode::from(match (interrupted, faults.is_empty()) {
        // Its requests were cut short, so what they say of faults says nothing.
        (true, _) => INTERRUPTED,
        (false, false) => FAILED,
        (false, true) => 0,
    }))
}
