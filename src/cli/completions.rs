//! `dualpool completions SHELL`

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

#[derive(clap::Args)]
pub struct Args {
    /// For bash: `dualpool completions bash > ~/.local/share/bash-completion/completions/dualpool`.
    shell: Shell,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    clap_complete::generate(args.shell, &mut Cli::command(), "dualpool", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
