//! `dualpool run --resume DIR`: a run that goes on, by the settings that it was made with.

use std::path::{Path, PathBuf};

use thiserror::Error;

use dualpool_bench::Settings;
use dualpool_bench::target::Target;
use dualpool_bench::targets;
use dualpool_fleet::ProfileKind;
use dualpool_report::{load, workload_folders};
use dualpool_types::{Failure, UserError};

use super::flags::SettingFlags;

/// What may be said anew of a run that goes on: how much more it measures.
const ANEW: [&str; 2] = ["run.budget_s", "run.repetitions"];

#[derive(Debug, Error)]
enum ResumeRefused {
    #[error("{} is a run of {target}, which cannot go on; only dual_pool and dynamic_router can", dir.display())]
    Target { dir: PathBuf, target: String },
    #[error("{} was made with --{flag} and decides nothing however long it goes on; run it without", dir.display())]
    Short { dir: PathBuf, flag: &'static str },
    #[error(
        "{flag} beside --resume: a run goes on with the settings that it was made with; only --budget and --repetitions are taken"
    )]
    Setting { flag: String },
    #[error("the settings of the run in {} are not those of this version: {why}; repeat it", dir.display())]
    Version { dir: PathBuf, why: serde_json::Error },
    #[error("{} holds no workload that was begun; repeat the run", dir.display())]
    Empty { dir: PathBuf },
}

impl UserError for ResumeRefused {
    fn hint(&self) -> &'static str {
        "`dualpool run --resume DIR --budget 10m`, with the folder that `dualpool run` printed"
    }
}

/// The run that is to go on.
pub(super) struct Earlier {
    pub(super) target: &'static dyn Target,
    dir: PathBuf,
    settings: Settings,
}

impl Earlier {
    pub(super) fn read(dir: &Path, flags: &SettingFlags) -> Result<Earlier, Failure> {
        if let Some(other) = flags.values().into_iter().find(|value| !ANEW.contains(&value.key.as_str())) {
            return Err(ResumeRefused::Setting { flag: other.flag }.into());
        }
        let dir = dir.to_path_buf();
        let run = match workload_folders(&dir)? {
            None => load(&dir)?.run,
            Some(folders) => load(folders.first().ok_or_else(|| ResumeRefused::Empty { dir: dir.clone() })?)?.run,
        };
        let target = targets::find(&run.target)?;
        if !target.goes_on() {
            return Err(ResumeRefused::Target { dir, target: run.target }.into());
        }
        let settings = match Settings::of_run(&run.settings) {
            Ok(settings) => settings,
            Err(why) => return Err(ResumeRefused::Version { dir, why }.into()),
        };
        let short = [("quick", settings.run.quick), ("exact", settings.run.exact)];
        if let Some((flag, _)) = short.into_iter().find(|(_, given)| *given) {
            return Err(ResumeRefused::Short { dir, flag }.into());
        }
        Ok(Earlier { target, dir, settings })
    }

    /// The settings of the run, with how much more it measures from those of now.
    pub(super) fn settings(&self, now: &Settings) -> Settings {
        let mut settings = self.settings.clone();
        settings.run.out.clone_from(&self.dir);
        (settings.run.budget_s, settings.run.repetitions) = (now.run.budget_s, now.run.repetitions);
        settings.telemetry.log.clone_from(&now.telemetry.log);
        settings.telemetry.profile = ProfileKind::None;
        settings
    }
}
