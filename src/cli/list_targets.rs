//! `dualpool list-targets`

use std::process::ExitCode;

use super::terminal::print;
use crate::harness::target::TARGETS;

pub fn run() -> anyhow::Result<ExitCode> {
    let width = TARGETS.iter().map(|target| target.name.len()).max().unwrap_or(0);
    let lines: String = TARGETS.iter().map(|target| format!("{:width$}  {}\n", target.name, target.about)).collect();
    print(&lines)?;
    Ok(ExitCode::SUCCESS)
}
