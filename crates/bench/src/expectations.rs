//! `expectations/<machine>.json`: ratios that were accepted on a kind of machine, for later runs there to be held against. Ratios and not
//! times: what a machine's day does to all arms alike is in neither.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use dualpool_fleet::Progress;
use dualpool_report::load;
use dualpool_types::artifact::{Environment, Expected, ExpectedRatio, RunInfo};
use dualpool_types::records::replace_json;
use dualpool_types::settings::{values, written};
use dualpool_types::{Failure, UserError};

use super::Outcome;
use crate::settings::with_present_names;
use crate::{RunSettings, Settings};

/// Version of the file's keys.
pub(crate) const SCHEMA: u32 = 1;

/// Settings that decide what is served and how: ratios compare only where these are equal.
const DECIDING: [&str; 9] =
    ["engine.", "pools.", "router.", "kv.", "workload.", "objectives.", "dynamic_router.", "virtual.", "run.quick"];

/// Of these, those that change where things lie and what is written down, and nothing of what is served.
const NOT_DECIDING: [&str; 7] = [
    "engine.model",
    "engine.venv",
    "engine.start_timeout_s",
    "router.explain",
    "kv.run_dir",
    "kv.calibration",
    "dynamic_router.workloads",
];

#[derive(Debug, Error)]
pub enum ExpectationsError {
    #[error("cannot read the expectations {}: {source}; --expectations none does without", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is no file of expectations: {why}; delete it, or --expectations none does without", path.display())]
    Json { path: PathBuf, why: String },
    #[error("{} has schema {found}, and this program knows {SCHEMA}; accept a run anew with --update-expectations", path.display())]
    Schema { path: PathBuf, found: u32 },
    #[error("cannot write the expectations {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

impl UserError for ExpectationsError {
    fn hint(&self) -> &'static str {
        "docs/dynamic-router.md says what expectations are"
    }
}

/// What makes machines alike: not the day, not the driver, not what else is in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineKind {
    /// What engines compute on: `cpu`, `gpu` or `virtual`.
    pub device: String,
    /// The name of the processor.
    pub cpu: String,
    /// The number of hardware threads; null where the system does not tell.
    pub cores: Option<u32>,
    /// The names of the GPUs without their numbers.
    pub gpus: Vec<String>,
    /// The number of engines.
    pub engines: u32,
    /// The name of the model's folder.
    pub model: String,
}

impl MachineKind {
    pub fn of(environment: &Environment) -> MachineKind {
        let is_virtual = environment.backend.starts_with("virtual");
        let device = if is_virtual { "virtual" } else { ["gpu", "cpu"][usize::from(environment.gpus.is_empty())] };
        // `GPU 0 NVIDIA H100 80GB HBM3, 79.6 GiB`.
        let name = |gpu: &String| {
            let named = gpu.split(',').next().unwrap_or_default().trim_start_matches("GPU");
            named.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).trim().to_string()
        };
        let model = environment.model.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        MachineKind {
            device: device.to_string(),
            cpu: environment.cpu.clone(),
            cores: environment.cores,
            gpus: environment.gpus.iter().map(name).collect(),
            engines: environment.engines.len() as u32,
            model: model.to_string(),
        }
    }

    /// As a file's name, without an ending: what computes, how much of it, and the model.
    pub fn slug(&self) -> String {
        let computes = match self.gpus.first() {
            Some(gpu) => format!("{}x {gpu}", self.gpus.len()),
            None => format!("{} {}", self.cpu, self.cores.map_or("unknown".into(), |cores| format!("{cores} cores"))),
        };
        let text = format!("{} {computes} {} engines {}", self.device, self.engines, self.model).to_lowercase();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-")
    }
}

/// Ratios that were accepted on a kind of machine, for later runs there to be compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Book {
    /// The version of the document.
    #[serde(alias = "schema")]
    schema_version: u32,
    /// The kind of machine.
    machine: MachineKind,
    /// What was accepted of each target and workload.
    accepted: Vec<Accepted>,
}

/// What was accepted of one run of one target and workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Accepted {
    /// The target.
    target: String,
    /// The workload.
    workload: String,
    /// The settings that decide what is served and that were not the defaults.
    settings: BTreeMap<String, String>,
    /// The id of the run that was accepted.
    run: String,
    /// The ratios that were accepted.
    ratios: Vec<ExpectedRatio>,
}

impl Accepted {
    fn is_of(&self, target: &str, workload: &str, settings: &BTreeMap<String, String>) -> bool {
        self.target == target && self.workload == workload && self.settings == *settings
    }
}

/// The expectations of this machine, for one run.
#[derive(Debug)]
pub struct Expectations {
    /// None where the run is held against nothing.
    path: Option<PathBuf>,
    book: Book,
    /// The file was there.
    found: bool,
    update: bool,
}

impl Expectations {
    pub fn read(run: &RunSettings, environment: &Environment) -> Result<Expectations, ExpectationsError> {
        let machine = MachineKind::of(environment);
        let path = run.expectations_folder().map(|folder| folder.join(format!("{}.json", machine.slug())));
        let found = path.as_deref().map(read).transpose()?.flatten();
        Ok(Expectations {
            path,
            found: found.is_some(),
            book: found.unwrap_or(Book { schema_version: SCHEMA, machine, accepted: Vec::new() }),
            update: run.update_expectations,
        })
    }

    /// Tells the user, once, when there is nothing to hold the run against.
    pub fn announce(&self, progress: &dyn Progress) {
        if let Some(path) = self.path.as_ref().filter(|_| !self.found && !self.update) {
            let text = format!(
                "no ratios were accepted on such a machine yet ({}); --update-expectations accepts a run's",
                path.display()
            );
            progress.note(&text);
        }
    }

    /// What this run, or this part of it, is held against.
    pub fn of_workload(&self, run: &RunInfo) -> Option<Expected> {
        let (workload, settings) = identity(run)?;
        let accepted = self.book.accepted.iter().find(|a| a.is_of(&run.target, &workload, &settings))?;
        let file = self.path.as_ref()?.display().to_string();
        Some(Expected { file, run: accepted.run.clone(), ratios: accepted.ratios.clone() })
    }

    /// Takes the ratios of these parts in the place of those accepted before, where the user asked for it. A run with faults, one that was
    /// cut short, or one with an engine drained, is no measure for others.
    pub fn accept(&mut self, outcomes: &[Outcome], progress: &dyn Progress) -> Result<(), Failure> {
        let Some(path) = self.path.clone().filter(|_| self.update) else { return Ok(()) };
        if let Some(bad) =
            outcomes.iter().find(|o| o.interrupted || !o.faults.is_empty() || o.summary.exact || !o.summary.drained.is_empty())
        {
            progress.note(&format!("nothing was accepted: the run in {} is not a whole and sound one", bad.dir.display()));
            return Ok(());
        }
        for outcome in outcomes {
            let run = load(&outcome.dir)?.run;
            let Some((workload, settings)) = identity(&run) else { continue };
            let ratios = outcome.summary.comparisons.iter().filter_map(|c| {
                let (baseline, candidate, metric) = (c.baseline.clone(), c.candidate.clone(), c.metric.clone());
                Some(ExpectedRatio { baseline, candidate, metric, ratio: c.ratio?, ci_low: c.ci_low?, ci_high: c.ci_high? })
            });
            // The control has no ratio to keep up.
            let ratios = ratios.filter(|r| r.candidate != dualpool_types::arm::control_of(&r.baseline)).collect();
            self.book.accepted.retain(|a| !a.is_of(&run.target, &workload, &settings));
            self.book.accepted.push(Accepted { target: run.target, workload, settings, run: run.id, ratios });
        }
        let write = |source| ExpectationsError::Write { path: path.clone(), source };
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(write)?;
        replace_json(&path, &self.book).map_err(write)?;
        progress.note(&format!("accepted: {}", path.display()));
        Ok(())
    }
}

/// The workload of a run, and the settings that its ratios depend on. None when the settings are of another version.
fn identity(run: &RunInfo) -> Option<(String, BTreeMap<String, String>)> {
    let settings = Settings::of_run(&run.settings).ok()?;
    let defaults = values(&Settings::default());
    let decides = |key: &str| DECIDING.iter().any(|prefix| key.starts_with(prefix)) && !NOT_DECIDING.contains(&key);
    let changed = values(&settings)
        .into_iter()
        .filter(|(key, value)| decides(key) && *value != defaults[key])
        .map(|(key, value)| (key, written(&value)));
    let workload = match &run.workload {
        Some(workload) => workload.name.clone(),
        None => dualpool_workload::mix_name(settings.workload.mix).to_string(),
    };
    Some((workload, changed.collect()))
}

fn read(path: &Path) -> Result<Option<Book>, ExpectationsError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ExpectationsError::Read { path: path.to_path_buf(), source }),
    };
    let json = |error: serde_json::Error| ExpectationsError::Json { path: path.to_path_buf(), why: error.to_string() };
    // The version first: a later file may have keys that are not known here.
    let value: serde_json::Value = serde_json::from_str(&text).map_err(json)?;
    let said = value.get("schema_version").or_else(|| value.get("schema"));
    let found = said.and_then(serde_json::Value::as_u64).unwrap_or(0) as u32;
    if found != SCHEMA {
        return Err(ExpectationsError::Schema { path: path.to_path_buf(), found });
    }
    let mut book: Book = serde_json::from_value(value).map_err(json)?;
    for accepted in &mut book.accepted {
        accepted.settings = with_present_names(std::mem::take(&mut accepted.settings));
    }
    Ok(Some(book))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::EngineId;
    use dualpool_types::artifact::EnvironmentEngine;

    fn environment(backend: &str, gpus: &[&str]) -> Environment {
        let engine = |id| EnvironmentEngine { id: EngineId(id), device: format!("core {id}"), block_size: 128, kv_blocks: 100 };
        Environment {
            dualpool: "0".into(),
            backend: backend.into(),
            model: "models/tiny-135m/".into(),
            dtype: "auto".into(),
            os: "unknown".into(),
            cpu: "A CPU (R) 9".into(),
            cores: Some(2),
            memory_bytes: None,
            gpus: gpus.iter().map(|s| s.to_string()).collect(),
            engines: vec![engine(0), engine(1)],
        }
    }

    #[test]
    fn a_kind_is_what_computes_and_not_where_it_stands() {
        let slug = |backend: &str, gpus: &[&str]| MachineKind::of(&environment(backend, gpus)).slug();
        assert_eq!(slug("vllm 0.1", &[]), "cpu-a-cpu-r-9-2-cores-2-engines-tiny-135m");
        assert_eq!(slug("vllm 0.1", &[]), slug("vllm 0.2", &[]));
        assert_eq!(slug("virtual 0.1", &[]), "virtual-a-cpu-r-9-2-cores-2-engines-tiny-135m");
        let gpus = slug("vllm 0.1", &["GPU 2 NVIDIA H100, 79.6 GiB", "GPU 3 NVIDIA H100, 79.6 GiB"]);
        assert_eq!(gpus, "gpu-2x-nvidia-h100-2-engines-tiny-135m");
    }

    fn settings(folder: &Path) -> RunSettings {
        RunSettings { expectations: folder.to_path_buf(), ..RunSettings::default() }
    }

    #[test]
    fn settings_by_the_names_of_the_version_before_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let environment = environment("vllm", &[]);
        let machine = MachineKind::of(&environment);
        let path = dir.path().join(format!("{}.json", machine.slug()));
        let settings_of = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let before = settings_of(&[("migrate.verify_kv", "true"), ("workload.load", "0.9")]);
        let accepted = vec![Accepted {
            target: "dual_pool".into(),
            workload: "balanced".into(),
            settings: before,
            run: "r".into(),
            ratios: vec![],
        }];
        replace_json(&path, &Book { schema_version: SCHEMA, machine, accepted }).unwrap();
        let read = Expectations::read(&settings(dir.path()), &environment).unwrap();
        let now: BTreeMap<String, String> = settings_of(&[("kv.verify", "true"), ("workload.load", "0.9")]);
        assert_eq!(read.book.accepted[0].settings, now);
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let environment = environment("vllm", &[]);
        let path = dir.path().join(format!("{}.json", MachineKind::of(&environment).slug()));
        assert!(!Expectations::read(&settings(dir.path()), &environment).unwrap().found);
        for (text, says) in [
            ("{", "is no file of expectations"),
            (r#"{"schema_version": 9}"#, "has schema 9"),
            (r#"{"schema": 8}"#, "has schema 8"),
            ("{}", "has schema 0"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Expectations::read(&settings(dir.path()), &environment).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("2-cores"), "{error}");
        }
        assert!(Expectations::read(&settings(Path::new("none")), &environment).unwrap().path.is_none());
    }
}
