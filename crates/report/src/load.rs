//! Reads a run folder. A run that was stopped leaves a folder without its last parts; that is reported on as far as it goes.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

use dualpool_types::artifact::{RunInfo, Summary};
use dualpool_types::records::{EngineSample, RequestRecord, Sample};
use dualpool_types::{FAILED, USAGE, UserError};

use super::earlier::{Translation, name_arms, parse, translation};
use super::lines::{LINE_BYTES_MAX, Lines};

/// All that a run left behind.
#[derive(Clone, Debug)]
pub struct Artifacts {
    pub dir: PathBuf,
    pub run: RunInfo,
    /// None when the run ended before its figures were made.
    pub summary: Option<Summary>,
    pub requests: Vec<RequestRecord>,
    pub samples: Vec<EngineSample>,
    /// What the run noted, and what the folder lacks, in words.
    pub notes: Vec<String>,
}

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("{} is not a folder; give the run folder that `dualpool run` printed, such as artifacts/dual_pool/<time>-<id>", .0.display())]
    NotAFolder(PathBuf),
    #[error("{} has no run.json, so it is not a run folder; give the one that `dualpool run` printed", .0.display())]
    NoRun(PathBuf),
    #[error("{}: cannot be read: {source}; check the file's permissions and the disk", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} line {line}: {why}; {mend}", path.display())]
    Json { path: PathBuf, line: usize, why: String, mend: &'static str },
    #[error("{} line {line}: longer than {LINE_BYTES_MAX} bytes, so it is not a record; delete the line", path.display())]
    LineTooLong { path: PathBuf, line: usize },
}

impl UserError for LoadError {
    fn exit_code(&self) -> u8 {
        match self {
            LoadError::NotAFolder(_) | LoadError::NoRun(_) => USAGE,
            _ => FAILED,
        }
    }

    fn hint(&self) -> &'static str {
        "`dualpool run` prints the run folder as its last line"
    }
}

/// Reads the artifacts of one run.
pub fn load(dir: &Path) -> Result<Artifacts, LoadError> {
    if !dir.is_dir() {
        return Err(LoadError::NotAFolder(dir.into()));
    }
    let mut run: RunInfo = document(&dir.join("run.json"), "repeat the run, or report with the dualpool version that wrote it")?
        .ok_or_else(|| LoadError::NoRun(dir.into()))?;
    let mut notes = run.notes.clone();
    if run.interrupted {
        notes.push("The run was stopped before all repetitions were done; only what was finished is reported.".to_string());
    }
    let mut summary: Option<Summary> =
        translated(dir, "summary.json", "delete the file to report on the raw records alone, or repeat the run")?;
    if summary.is_none() {
        notes.push("There is no summary.json: the run is not finished, or it was stopped before its figures were made. The table is computed from requests.jsonl and samples.jsonl; there are no comparisons and no recommendation.".to_string());
    }
    let mut requests = lines(dir, "requests.jsonl", "the distributions, the lanes and the objective map", &mut notes)?;
    let mut samples = finished(lines(dir, "samples.jsonl", "the queue depth over time", &mut notes)?, &requests, &mut notes);
    name_arms(&mut run, summary.as_mut(), &mut requests, &mut samples);
    Ok(Artifacts { dir: dir.into(), run, summary, requests, samples, notes })
}

/// The engines' samples of runs that were finished. A run that was killed leaves those of the run it was in the middle of.
fn finished(samples: Vec<Sample>, requests: &[RequestRecord], notes: &mut Vec<String>) -> Vec<EngineSample> {
    let engines = samples.into_iter().filter_map(|sample| match sample {
        Sample::Engine(sample) => Some(sample),
        Sample::Gpu(_) => None,
    });
    let runs: HashSet<(&str, u32)> = requests.iter().map(|r| (r.arm.as_str(), r.repetition)).collect();
    let (finished, cut): (Vec<_>, Vec<_>) =
        engines.partition(|s| requests.is_empty() || runs.contains(&(s.arm.as_str(), s.repetition)));
    if !cut.is_empty() {
        notes.push(format!("{} engine samples belong to runs that were not finished and are left out.", cut.len()));
    }
    finished
}

/// A JSON file; none when there is no such file.
pub(super) fn document<T: DeserializeOwned>(path: &Path, mend: &'static str) -> Result<Option<T>, LoadError> {
    read(path, None, mend)
}

/// The same of a file of a run or a simulation, which may be of an earlier version.
pub(super) fn translated<T: DeserializeOwned>(dir: &Path, file: &str, mend: &'static str) -> Result<Option<T>, LoadError> {
    read(&dir.join(file), translation(dir, file)?, mend)
}

fn read<T: DeserializeOwned>(path: &Path, translation: Option<Translation>, mend: &'static str) -> Result<Option<T>, LoadError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoadError::Read { path: path.into(), source }),
    };
    let json = |e: serde_json::Error| LoadError::Json { path: path.into(), line: e.line().max(1), why: e.to_string(), mend };
    parse(text.as_bytes(), translation).map(Some).map_err(json)
}

/// All records of a file. A last line that was cut off is left out and noted.
fn lines<T: DeserializeOwned>(dir: &Path, name: &str, shows: &str, notes: &mut Vec<String>) -> Result<Vec<T>, LoadError> {
    let Some(mut lines) = Lines::open(dir, name)? else {
        notes.push(format!("There is no {name}: {shows} cannot be shown."));
        return Ok(Vec::new());
    };
    let records = lines.by_ref().collect::<Result<Vec<T>, LoadError>>()?;
    notes.extend(lines.cut_off());
    if records.is_empty() {
        notes.push(format!("{name} holds no record: {shows} cannot be shown."));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn folder() -> (tempfile::TempDir, Artifacts) {
        let dir = tempfile::tempdir().unwrap();
        let mut artifacts = fixture::small();
        artifacts.run.notes.push("The machine stood still.".into());
        fixture::write(&artifacts, dir.path());
        (dir, artifacts)
    }

    #[test]
    fn reads_back_what_a_run_wrote() {
        let (dir, wrote) = folder();
        let read = load(dir.path()).unwrap();
        assert_eq!(read.requests, wrote.requests);
        assert_eq!(read.samples, wrote.samples);
        assert_eq!(read.summary.unwrap().arms.len(), wrote.summary.unwrap().arms.len());
        assert_eq!(read.notes, ["The machine stood still."]);
    }

    #[test]
    fn a_summary_from_before_the_second_rule_is_read() {
        let (dir, _) = folder();
        let path = dir.path().join("summary.json");
        let mut summary: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for arm in summary["arms"].as_array_mut().unwrap() {
            for key in ["tpot_share", "goodput_rps", "tpot_goodput_rps", "longest_itl_ms_p99"] {
                assert!(arm.as_object_mut().unwrap().remove(key).is_some(), "{key} is written");
            }
        }
        std::fs::write(&path, summary.to_string()).unwrap();
        let arm = &load(dir.path()).unwrap().summary.unwrap().arms[0];
        assert_eq!((arm.tpot_share, arm.goodput_rps, arm.longest_itl_ms_p99), (None, None, None));
        assert!(arm.goodput_share.is_some());
    }

    #[test]
    fn an_interrupted_run_is_reported_as_far_as_it_goes() {
        let (dir, wrote) = folder();
        std::fs::remove_file(dir.path().join("summary.json")).unwrap();
        std::fs::remove_file(dir.path().join("samples.jsonl")).unwrap();
        let path = dir.path().join("requests.jsonl");
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 40]).unwrap();
        let read = load(dir.path()).unwrap();
        assert!(read.summary.is_none());
        assert_eq!(read.requests, wrote.requests[..wrote.requests.len() - 1]);
        let notes = read.notes.join("\n");
        for said in ["no summary.json", "no samples.jsonl", "last line of requests.jsonl"] {
            assert!(notes.contains(said), "`{said}` is not in: {notes}");
        }
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_mend() {
        let (dir, _) = folder();
        let path = dir.path().join("requests.jsonl");
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.insert_str(0, "{\"arm\": 3}\n");
        std::fs::write(&path, text).unwrap();
        let said = load(dir.path()).unwrap_err().to_string();
        assert!(said.contains("requests.jsonl line 1") && said.contains("delete the line"), "{said}");

        std::fs::write(dir.path().join("summary.json"), "{\n\"target\": 1}").unwrap();
        let said = load(dir.path()).unwrap_err().to_string();
        assert!(said.contains("summary.json line 2") && said.contains("repeat the run"), "{said}");

        std::fs::remove_file(dir.path().join("run.json")).unwrap();
        let said = load(dir.path()).unwrap_err().to_string();
        assert!(said.contains("no run.json") && said.contains("dualpool run"), "{said}");

        let said = load(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(said.contains("absent is not a folder"), "{said}");
    }
}
