//! `dualpool doctor`: one line per thing a run needs; what is missing comes with the command that mends it.

mod cuda;
mod libpython;
mod machine;
mod python;

use std::fmt;
use std::process::ExitCode;

use dualpool_machine::Gpus;
use dualpool_types::FAILED;

use super::Cli;
use super::flags::SettingFlags;
use super::terminal::print;

/// Mends whatever set-up brings.
const SETUP: &str = "make setup";

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingFlags,
}

/// The outcome of one check.
#[derive(Debug)]
enum State {
    Good(String),
    /// A run works without it.
    Poor {
        what: String,
        mend: String,
    },
    Missing {
        what: String,
        mend: String,
    },
}

#[derive(Debug)]
struct Check {
    name: &'static str,
    state: State,
}

impl Check {
    fn good(name: &'static str, what: impl fmt::Display) -> Check {
        Check { name, state: State::Good(what.to_string()) }
    }

    fn poor(name: &'static str, what: impl fmt::Display, mend: impl fmt::Display) -> Check {
        Check { name, state: State::Poor { what: what.to_string(), mend: mend.to_string() } }
    }

    fn missing(name: &'static str, what: impl fmt::Display, mend: impl fmt::Display) -> Check {
        Check { name, state: State::Missing { what: what.to_string(), mend: mend.to_string() } }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, what, mend) = match &self.state {
            State::Good(what) => ("ok     ", what, None),
            State::Poor { what, mend } => ("note   ", what, Some(mend)),
            State::Missing { what, mend } => ("MISSING", what, Some(mend)),
        };
        write!(f, "{mark} {:14} {what}", self.name)?;
        mend.map_or(Ok(()), |mend| write!(f, "\n{:22} -> {mend}", ""))
    }
}

pub(super) fn run(args: &Args, cli: &Cli) -> anyhow::Result<ExitCode> {
    let gpus = Gpus::detect();
    let loaded = cli.settings(&args.settings, &gpus)?;
    let settings = &loaded.settings;
    let mut checks = python::checks(settings, loaded.device);
    checks.push(machine::gpus(&gpus, loaded.device));
    checks.extend(cuda::check(&gpus, loaded.device));
    checks.push(machine::devices(settings, &gpus));
    checks.extend(machine::model_and_memory(settings, loaded.device));
    checks.extend(machine::folders(settings));
    checks.push(machine::shared_memory());
    let lines: String = checks.iter().map(|check| format!("{check}\n")).collect();
    let missing = checks.iter().filter(|check| matches!(check.state, State::Missing { .. })).count();
    if missing == 0 {
        print(&format!("{lines}\nall that a run needs is here\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!("{lines}\n{missing} of {} things are missing\n", checks.len()))?;
    Ok(ExitCode::from(FAILED))
}
