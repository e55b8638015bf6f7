//! `dualpool list-targets`

use std::process::ExitCode;

use dualpool_bench::targets::TARGETS;

use super::terminal::print;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    let width = TARGETS.iter().map(|target| target.name().len()).max().unwrap_or(0);
    let lines: String = TARGETS.iter().map(|target| format!("{:width$}  {}\n", target.name(), target.about())).collect();
    print(&lines)?;
    Ok(ExitCode::SUCCESS)
}
