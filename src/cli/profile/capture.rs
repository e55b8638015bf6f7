//! Runs this program once more, under a tool, and reads what the tool saw.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::super::program;
use super::tool::Tool;
use crate::config::UNDER_PROFILER;
use crate::telemetry::profile::Profile;

/// How long a tool may take to print its report, and how often its end is looked for.
const PRINT_MAX: Duration = Duration::from_secs(900);
const PRINT_POLL: Duration = Duration::from_millis(50);

/// A printed report larger than this is not read: it would be held in memory at a whole.
const PRINTED_BYTES_MAX: u64 = 4 << 30;

/// Runs this program with these arguments under the tool, which leaves its report in `dir`.
pub fn watch<'a>(
    tool: Tool,
    found: &Path,
    dir: &Path,
    arguments: impl IntoIterator<Item = &'a OsStr>,
) -> anyhow::Result<ExitStatus> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the run folder {}", dir.display()))?;
    let again = program::again()?;
    let mut command = Command::new(found);
    command.args(tool.watch(dir)).arg(again.get_program()).args(again.get_args()).args(arguments);
    command.env(UNDER_PROFILER, tool.name());
    // SAFETY: between fork and exec only prctl(2) is called, which is a plain system call.
    unsafe {
        command.pre_exec(|| {
            // The tool ends the program it watches when it is asked to end.
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    outlive_ctrl_c()?;
    command.status().with_context(|| format!("cannot start {}", found.display()))
}

/// A Ctrl-C goes to all of us: the program that is watched ends in order, the tool writes its report, and this process waits for both.
fn outlive_ctrl_c() -> anyhow::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // A handler, because what is ignored would be ignored by the tool as well.
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, which is allowed at any time.
    unsafe { sigaction(Signal::SIGINT, &action) }.context("cannot listen for Ctrl-C")?;
    Ok(())
}

/// What the tool's report says.
pub fn read(tool: Tool, found: &Path, dir: &Path) -> anyhow::Result<Profile> {
    let report = dir.join(tool.report());
    anyhow::ensure!(report.is_file(), "{} left no {}", tool.name(), report.display());
    let printed = Printed(dir.join("profile.csv.part"));
    print(tool, found, dir, &printed.0)?;
    let bytes = fs::metadata(&printed.0)?.len();
    anyhow::ensure!(
        bytes <= PRINTED_BYTES_MAX,
        "its printed report has {bytes} bytes, over {PRINTED_BYTES_MAX}; profile a shorter run"
    );
    let text = fs::read(&printed.0).context("cannot read its printed report")?;
    Ok(tool.extract(&String::from_utf8_lossy(&text))?)
}

/// Removed when dropped: the tool's report says the same, and more.
struct Printed(PathBuf);

impl Drop for Printed {
    fn drop(&mut self) {
        // Not there when the tool could not be started.
        let _ = fs::remove_file(&self.0);
    }
}

fn print(tool: Tool, found: &Path, dir: &Path, into: &Path) -> anyhow::Result<()> {
    let file = File::create(into).with_context(|| format!("cannot write {}", into.display()))?;
    // Other locales write numbers with other points.
    let mut command = Command::new(found);
    command.args(tool.print(dir)).env("LC_ALL", "C").stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
    let mut printing = command.spawn().with_context(|| format!("cannot start {}", found.display()))?;
    let polls = PRINT_MAX.as_millis() / PRINT_POLL.as_millis();
    for _ in 0..polls {
        if let Some(status) = printing.try_wait()? {
            anyhow::ensure!(status.success(), "printing its report ended with {status}");
            return Ok(());
        }
        std::thread::sleep(PRINT_POLL);
    }
    printing.kill()?;
    printing.wait()?;
    anyhow::bail!("its report was not printed within {} s; profile a shorter run", PRINT_MAX.as_secs())
}
