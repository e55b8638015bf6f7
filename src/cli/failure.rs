//! How a command fails: one error, its causes, what to do next, and an exit code that scripts can tell apart.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use dualpool_types::Failure;

/// Stopped by the user, as shells report Ctrl-C.
pub(super) const INTERRUPTED: u8 = 130;

pub(super) fn print(failure: &Failure) -> ExitCode {
    let mut text = format!("error: {failure}\n");
    // A transparent error says the same as its cause.
    let mut said = failure.to_string();
    let mut next = failure.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !said.contains(&cause) {
            text += &format!("  cause: {cause}\n");
        }
        (said, next) = (cause, error.source());
    }
    if let Some(hint) = failure.hint() {
        text += &format!("  hint: {hint}\n");
    }
    // Fails when standard error is closed, and then there is no other place to say it.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(failure.exit_code())
}
