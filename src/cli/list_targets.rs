//! `dualpool list-targets`

use std::process::ExitCode;

use crate::harness::target::TARGETS;

pub fn run() -> anyhow::Result<ExitCode> {
    let width = TARGETS.iter().map(|target| target.name.len()).max().unwrap_or(0);
    for target in TARGETS {
        println!("{:width$}  {}", target.name, target.about);
    }
    Ok(ExitCode::SUCCESS)
}
