//! How a command fails: one error, its causes, what to do next, and an exit code that scripts can tell apart.

use std::io::Write;
use std::process::ExitCode;

use dualpool_bench::SettingsError;
use dualpool_bench::dynamic_router::ArmsOfDualPool;
use dualpool_bench::expectations::ExpectationsError;
use dualpool_bench::folder::FolderError;
use dualpool_bench::target::UnknownTarget;
use dualpool_kv::CalibrationError;
use dualpool_machine::DeviceError;
use dualpool_report::LoadError;
use dualpool_report::explain::ExplainError;
use dualpool_sim::scenario::ScenarioError;
use dualpool_workload::trace::TraceError;
use dualpool_workload::{ParameterError, WorkloadError};

use crate::config::ConfigError;

/// Something went wrong.
pub const FAILED: u8 = 1;
/// The command line or the settings cannot stand; clap uses the same code.
pub const USAGE: u8 = 2;
/// Stopped by the user, as shells report Ctrl-C.
pub const INTERRUPTED: u8 = 130;

pub fn print(error: &anyhow::Error) -> ExitCode {
    let mut text = format!("error: {error}\n");
    // A transparent error says the same as its cause.
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            text += &format!("  cause: {cause}\n");
        }
        said = cause;
    }
    let (code, hint) = judge(error);
    if let Some(hint) = hint {
        text += &format!("  hint: {hint}\n");
    }
    // Nobody is left to tell when standard error is closed.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}

fn judge(error: &anyhow::Error) -> (u8, Option<&'static str>) {
    let is = |found: bool, code, hint| found.then_some((code, Some(hint)));
    is(error.is::<ConfigError>(), USAGE, "`dualpool config` shows every setting and where it came from")
        .or(is(error.is::<SettingsError>(), USAGE, "`dualpool config` shows every setting and where it came from"))
        .or(is(error.is::<DeviceError>(), USAGE, "`dualpool doctor` lists the devices of this machine"))
        .or(is(error.is::<UnknownTarget>(), USAGE, "`dualpool list-targets` says what each target does"))
        .or(is(error.is::<WorkloadError>(), USAGE, "`dualpool config` shows every setting and where it came from"))
        .or(is(error.is::<ScenarioError>(), USAGE, "docs/simulate.md says what a scenario holds"))
        .or(is(error.is::<TraceError>(), USAGE, "docs/workloads.md says what traces can be read"))
        .or(is(error.is::<ParameterError>(), USAGE, "`dualpool config` shows every setting and where it came from"))
        .or(is(error.is::<ArmsOfDualPool>(), USAGE, "`dualpool list-targets` says what each target does"))
        .or(is(error.is::<ExpectationsError>(), USAGE, "docs/dynamic-router.md says what expectations are"))
        .or(is(error.is::<FolderError>(), USAGE, "without --out every run gets a folder of its own under artifacts/"))
        .or(is(error.is::<CalibrationError>(), USAGE, "--calibration none runs without one"))
        .or(is(error.is::<ExplainError>(), USAGE, "docs/routing.md says what is noted, and when"))
        .or(is(error.is::<LoadError>(), FAILED, "`dualpool run` prints the run folder as its last line"))
        .unwrap_or((FAILED, None))
}
