//! `--profile` on every target: a run that is watched, and leaves `profile.json`.

mod capture;
mod show;
mod tool;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use dualpool_bench::Settings;
use dualpool_bench::folder::{Identity, REQUESTS};
use dualpool_bench::profile::{Profile, in_process};
use dualpool_fleet::ProfileKind;
use dualpool_report::Overview;
use dualpool_types::records::{RequestRecord, replace_json};
use dualpool_types::{FAILED, Failure};

use super::terminal::{Terminal, print};
use crate::config::UNDER_PROFILER;
use tool::Tool;

/// The file that a profiled run leaves.
const FILE: &str = "profile.json";

/// What a run is watched with, and where.
pub(super) struct Watched<'a> {
    pub settings: &'a Settings,
    /// Of the target: its name, and what a run of it leaves as soon as it has anything to leave.
    pub target: &'static str,
    pub file: &'static str,
    /// What this program was called with, without its own name.
    pub arguments: &'a [OsString],
    /// Standard output is for machines: the profile is not shown.
    pub quiet: bool,
    pub terminal: &'a Terminal,
}

impl Watched<'_> {
    /// Runs a target, itself or in a second process under a tool, as `telemetry.profile` has it.
    pub(super) fn run(self, run: impl FnOnce(&Settings) -> Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
        let asked = self.settings.telemetry.profile;
        if asked == ProfileKind::None || std::env::var_os(UNDER_PROFILER).is_some() {
            return run(self.settings);
        }
        let mut settings = self.settings.clone();
        let chosen = !settings.run.out.as_os_str().is_empty();
        if !chosen {
            settings.run.out = Identity::now(self.target, Path::new("")).dir;
        }
        let dir = settings.run.out.clone();
        if [self.file, "run.json"].iter().any(|file| dir.join(file).exists()) {
            // Another run's folder, which the target refuses; nothing of ours goes into it either.
            return run(&settings);
        }
        let Some(tool) = Tool::of(asked) else { return self.alone(&settings, None, run) };
        let Some(found) = tool.find() else {
            let why = format!("{} ({}) is not on PATH; these are this program's own timings", tool.name(), tool.product());
            self.terminal.line(&format!("note: {why}"));
            return self.alone(&settings, Some(why), run);
        };
        let out = if chosen { vec![] } else { vec![OsStr::new("--out"), dir.as_os_str()] };
        let status = capture::watch(tool, &found, &dir, self.arguments.iter().map(OsString::as_os_str).chain(out))?;
        if self.left_something(&dir) || dir.join(tool.report()).exists() {
            self.keep(&dir, || match capture::read(tool, &found, &dir) {
                Ok(profile) => Ok(Profile { report: Some(tool.report().to_owned()), ..profile }),
                Err(error) => {
                    let why = format!("{} gave nothing to read: {error:#}; these are this program's own timings", tool.name());
                    self.terminal.line(&format!("note: {why}"));
                    own_timings(&dir, Some(why))
                }
            });
        }
        // None when a signal ended the tool.
        Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)))
    }

    /// Runs the target in this process; `note` says why without a tool.
    fn alone(
        &self,
        settings: &Settings,
        note: Option<String>,
        run: impl FnOnce(&Settings) -> Result<ExitCode, Failure>,
    ) -> Result<ExitCode, Failure> {
        let outcome = run(settings);
        let dir = &settings.run.out;
        if self.left_something(dir) {
            self.keep(dir, || own_timings(dir, note));
        }
        outcome
    }

    /// Not so when it was stopped before it began; a run that failed later has a profile as well.
    fn left_something(&self, dir: &Path) -> bool {
        dir.join(self.file).exists()
    }

    /// Writes `profile.json` in one go, and shows it. Without one the run is what it was, so that is noted and no failure.
    fn keep(&self, dir: &Path, profile: impl FnOnce() -> anyhow::Result<Profile>) {
        if let Err(error) = profile().and_then(|profile| self.write(dir, profile)) {
            self.terminal.line(&format!("note: there is no {FILE}: {error:#}"));
        }
    }

    fn write(&self, dir: &Path, profile: Profile) -> anyhow::Result<()> {
        let profile = Profile { asked: self.settings.telemetry.profile, ..profile };
        let path = dir.join(FILE);
        replace_json(&path, &profile).with_context(|| format!("cannot write {}", path.display()))?;
        if self.quiet {
            return Ok(());
        }
        print(&format!("\n{}profile:   {}\n", show::text(&profile), path.display()))
    }
}

/// What the run's own records say of copies and engines; `note` says why no profiler measured them.
fn own_timings(dir: &Path, note: Option<String>) -> anyhow::Result<Profile> {
    let parts = Overview::read(dir)?.map_or(vec![String::new()], |overview| overview.workloads);
    let mut requests = Vec::new();
    for part in parts {
        let path = dir.join(&part).join(REQUESTS);
        let mut records = match fs::File::open(&path) {
            Ok(file) => read(BufReader::new(file)).with_context(|| format!("cannot read {}", path.display()))?,
            // A target that serves no requests moves no KV for any.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        // Parts have arms of the same names, whose times all begin at 0.
        records.iter_mut().for_each(|record| record.arm.insert_str(0, &part));
        requests.extend(records);
    }
    Ok(Profile { note, ..in_process::profile(&requests) })
}

fn read(file: impl BufRead) -> anyhow::Result<Vec<RequestRecord>> {
    file.lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
