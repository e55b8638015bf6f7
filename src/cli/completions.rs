//! `dualpool completions SHELL`

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::terminal::print;

#[derive(clap::Args)]
pub(super) struct Args {
    /// For bash: `dualpool completions bash > ~/.local/share/bash-completion/completions/dualpool`.
    shell: Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dualpool", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
