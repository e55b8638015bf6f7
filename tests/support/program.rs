//! The program, started as a user would start it.

use std::path::Path;
use std::process::Command;

/// The program with these arguments, in this folder.
pub fn dualpool(folder: impl AsRef<Path>, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dualpool"));
    without_settings(&mut command).args(args).current_dir(folder);
    command
}

/// Keeps the settings in the user's environment away from the test. Other tests run beside it, and are no disturbance.
pub fn without_settings(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DUALPOOL_")) {
        command.env_remove(name);
    }
    command.env("DUALPOOL_RUN__REPEAT_DISTURBED", "false")
}

/// What a program said, as it is shown when a test fails.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The folder of this project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Standard output of a run that must succeed.
#[track_caller]
pub fn prints(folder: &Path, args: &[&str]) -> String {
    let output = dualpool(folder, args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}
