//! Runs this program once more, under a tool, and reads what the tool saw.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use dualpool_bench::profile::Profile;
use dualpool_fleet::program;

use super::tool::Tool;
use crate::config::UNDER_PROFILER;

/// How long a tool may take to print its report.
const PRINT_MAX: Duration = Duration::from_secs(900);

/// A printed report larger than this is not read: it would be held in memory at a whole.
const PRINTED_BYTES_MAX: u64 = 512 << 20;

/// Runs this program with these arguments under the tool, which leaves its report in `dir`.
pub(super) fn watch<'a>(
    tool: Tool,
    found: &Path,
    dir: &Path,
    arguments: impl IntoIterator<Item = &'a OsStr>,
) -> anyhow::Result<ExitStatus> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the run folder {}", dir.display()))?;
    let again = program::again()?;
    let mut command = Command::new(found);
    command.args(tool.watch(dir)).arg(again.path).args(again.arguments).args(arguments);
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
    // From this thread, whose end would be the tool's.
    wait_for(outlive(command))?.with_context(|| format!("cannot run {}", found.display()))
}

fn wait_for<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the tokio runtime")?;
    Ok(runtime.block_on(work))
}

/// Waits for the tool, whatever asks this process to end: the program that is watched ends in order, and the tool writes its report.
async fn outlive(command: Command) -> io::Result<ExitStatus> {
    // Handled and not ignored: what is ignored here would be ignored by the tool as well.
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut tool = tokio::process::Command::from(command).spawn()?;
    loop {
        tokio::select! {
            status = tool.wait() => return status,
            // A Ctrl-C goes to all of us.
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {
                if let Some(pid) = tool.id() {
                    // Fails when the tool has just ended.
                    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
                }
            }
        }
    }
}

/// What the tool's report says.
pub(super) fn read(tool: Tool, found: &Path, dir: &Path) -> anyhow::Result<Profile> {
    let report = dir.join(tool.report());
    anyhow::ensure!(report.is_file(), "{} left no {}", tool.name(), report.display());
    let printed = Scratch(dir.join("profile.csv.part"));
    let _exported = tool.export().map(|name| Scratch(dir.join(name)));
    wait_for(print(tool, found, dir, &printed.0))??;
    let bytes = fs::metadata(&printed.0)?.len();
    anyhow::ensure!(
        bytes <= PRINTED_BYTES_MAX,
        "its printed report has {bytes} bytes, over {PRINTED_BYTES_MAX}; profile a shorter run"
    );
    let text = fs::read(&printed.0).context("cannot read its printed report")?;
    Ok(tool.extract(&String::from_utf8_lossy(&text))?)
}

/// Removed when dropped: the tool's report says the same, and more.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Not there when the tool could not be started, or wrote none.
        let _ = fs::remove_file(&self.0);
    }
}

async fn print(tool: Tool, found: &Path, dir: &Path, into: &Path) -> anyhow::Result<()> {
    let file = File::create(into).with_context(|| format!("cannot write {}", into.display()))?;
    let mut terminations = signal(SignalKind::terminate())?;
    // Other locales write numbers with other points.
    let mut command = tokio::process::Command::new(found);
    command.args(tool.print(dir)).env("LC_ALL", "C").stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
    let mut printing = command.spawn().with_context(|| format!("cannot start {}", found.display()))?;
    let why = tokio::select! {
        ended = printing.wait() => {
            let status = ended?;
            anyhow::ensure!(status.success(), "printing its report ended with {status}");
            return Ok(());
        }
        () = tokio::time::sleep(PRINT_MAX) => {
            format!("its report was not printed within {} s; profile a shorter run", PRINT_MAX.as_secs())
        }
        _ = terminations.recv() => "printing its report was stopped".to_owned(),
    };
    printing.kill().await?;
    anyhow::bail!(why)
}
