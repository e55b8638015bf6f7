//! The folder a run leaves: `run.json`, `requests.jsonl`, `samples.jsonl`, `summary.json`. Records are on disk as soon as their
//! arm's run is over, so what was finished survives whatever comes after.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;

use dualpool_fleet::{Fleet, Recording};
use dualpool_report::Artifacts;
use dualpool_report::simulated::SIMULATED_REQUESTS;
use dualpool_types::UserError;
use dualpool_types::artifact::{RunInfo, Summary};
use dualpool_types::records::{NoteRecord, can_write_in, replace_json};

use super::samples::SamplesFile;

/// One line per request that ended.
pub const REQUESTS: &str = "requests.jsonl";

/// One line per sample of an engine or a GPU.
const SAMPLES: &str = "samples.jsonl";

/// One line per note of the router; only there when it noted something.
pub const DECISIONS: &str = "decisions.jsonl";

#[derive(Debug, Error)]
pub enum FolderError {
    #[error("cannot write the run folder {}: {source}; choose another one with --out", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the run folder {} already holds a run; choose another one with --out", path.display())]
    Taken { path: PathBuf },
}

impl UserError for FolderError {
    fn hint(&self) -> &'static str {
        "without --out every run gets a folder of its own under artifacts/"
    }
}

/// What names a run, and where it leaves its files.
#[derive(Clone, Debug)]
pub struct Identity {
    pub target: String,
    pub id: String,
    /// UTC, RFC 3339.
    pub started_at: String,
    pub dir: PathBuf,
}

impl Identity {
    /// Of a run that starts now, in `out` or, when that is empty, in `artifacts/<target>/<id>`.
    pub fn now(target: &str, out: &Path) -> Identity {
        let now = Timestamp::now();
        // Two runs started in the same second differ in the process id.
        let id = format!("{}-{:x}", now.strftime("%Y%m%dT%H%M%SZ"), std::process::id());
        let dir = if out.as_os_str().is_empty() { Path::new("artifacts").join(target).join(&id) } else { out.to_path_buf() };
        Identity { target: target.to_string(), started_at: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), id, dir }
    }

    /// Of the run in this folder, which goes on.
    pub fn of(run: &RunInfo, dir: &Path) -> Identity {
        Identity { target: run.target.clone(), id: run.id.clone(), started_at: run.started_at.clone(), dir: dir.to_path_buf() }
    }

    /// Of a part of this run, which leaves its files in a folder of its own in that of the run.
    pub fn of_workload(&self, name: &str) -> Identity {
        Identity { dir: self.dir.join(name), ..self.clone() }
    }
}

/// A run's folder, open for writing.
#[derive(Debug)]
pub struct RunFolder {
    run: Identity,
    requests: BufWriter<File>,
    decisions: Option<BufWriter<File>>,
    /// Shared with the task that shows the samples of the run under way.
    samples: Arc<Mutex<SamplesFile>>,
    /// It holds what an earlier run left.
    goes_on: bool,
}

impl RunFolder {
    /// Makes the folder. Fails when it cannot be written or holds a run, so call it before engines are started.
    pub fn create(run: Identity) -> Result<RunFolder, FolderError> {
        let dir = run.dir.clone();
        let write = |source| FolderError::Write { path: dir.clone(), source };
        fs::create_dir_all(&dir).map_err(write)?;
        let requests = create_records(&dir, REQUESTS)?;
        let samples = Arc::new(Mutex::new(SamplesFile::create(&dir.join(SAMPLES)).map_err(write)?));
        Ok(RunFolder { run, requests, decisions: None, samples, goes_on: false })
    }

    /// The folder of a run that goes on. What a killed run left half written is cut off.
    pub fn reopen(run: Identity, earlier: &Artifacts) -> Result<RunFolder, FolderError> {
        let dir = run.dir.clone();
        let opened = || {
            let requests = append_after_lines(&dir.join(REQUESTS))?;
            let decisions = dir.join(DECISIONS);
            let decisions = if decisions.exists() { Some(append_after_lines(&decisions)?) } else { None };
            let runs: HashSet<(&str, u32)> = earlier.requests.iter().map(|r| (r.arm.as_str(), r.repetition)).collect();
            let samples = SamplesFile::reopen(&dir.join(SAMPLES), |arm, repetition| runs.contains(&(arm, repetition)))?;
            Ok((requests, decisions, Arc::new(Mutex::new(samples))))
        };
        let (requests, decisions, samples) = opened().map_err(|source| FolderError::Write { path: dir.clone(), source })?;
        Ok(RunFolder { run, requests, decisions, samples, goes_on: true })
    }

    pub fn dir(&self) -> &Path {
        &self.run.dir
    }

    pub fn target(&self) -> &str {
        &self.run.target
    }

    pub fn id(&self) -> &str {
        &self.run.id
    }

    /// UTC, RFC 3339.
    pub fn started_at(&self) -> &str {
        &self.run.started_at
    }

    /// Appends what one arm's run recorded, and flushes it.
    pub fn append(&mut self, recording: &Recording) -> Result<(), FolderError> {
        let written = lines(&mut self.requests, &recording.requests)
            .and_then(|()| lock(&self.samples).keep(&recording.samples, &recording.gpus))
            .and_then(|()| self.append_notes(&recording.notes));
        written.map_err(|source| FolderError::Write { path: self.run.dir.clone(), source })
    }

    fn append_notes(&mut self, notes: &[NoteRecord]) -> std::io::Result<()> {
        if notes.is_empty() {
            return Ok(());
        }
        let file = match self.decisions.take() {
            Some(file) => file,
            None => BufWriter::new(File::create(self.run.dir.join(DECISIONS))?),
        };
        lines(self.decisions.insert(file), notes)
    }

    /// From now on the samples of every run stand in `samples.jsonl` as they are taken, until the next `append` or `end_samples`.
    pub async fn show_samples(&self, fleet: &Fleet) {
        let (mut batches, samples) = (fleet.follow().await, self.samples.clone());
        tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                let samples = samples.clone();
                // A disk may stall, and nothing else may wait for it.
                match tokio::task::spawn_blocking(move || lock(&samples).show(&batch)).await {
                    Ok(Ok(true)) => {}
                    Ok(Ok(false)) | Err(_) => return,
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "samples.jsonl cannot be written while the run goes on, so it cannot be followed");
                        return;
                    }
                }
            }
        });
    }

    /// Leaves in `samples.jsonl` what was appended, and shows nothing more.
    pub fn end_samples(&self) -> Result<(), FolderError> {
        lock(&self.samples).end().map_err(|source| FolderError::Write { path: self.run.dir.clone(), source })
    }

    pub fn write_run(&self, run: &RunInfo) -> Result<(), FolderError> {
        self.replace("run.json", run)
    }

    pub fn write_summary(&self, summary: &Summary) -> Result<(), FolderError> {
        self.replace("summary.json", summary)
    }

    /// Removes a folder in which nothing was written: the run ended before it began. What else lies in it stays.
    pub fn abandon(self) {
        if self.goes_on {
            return;
        }
        for name in [REQUESTS, SAMPLES] {
            // A file that cannot be removed is an empty one left behind, and does no harm.
            let _ = fs::remove_file(self.run.dir.join(name));
        }
        // Fails, rightly, when the user's folder holds other things.
        let _ = fs::remove_dir(&self.run.dir);
    }

    /// Writes a JSON file in one go: readers see the file before or the file after, never a part.
    fn replace(&self, name: &str, value: &impl Serialize) -> Result<(), FolderError> {
        replace_json(&self.run.dir.join(name), value).map_err(|source| FolderError::Write { path: self.run.dir.clone(), source })
    }
}

/// Refuses a folder in which no run or simulation could leave its files. Changes nothing.
pub(crate) fn vacant(dir: &Path) -> Result<(), FolderError> {
    if [REQUESTS, SIMULATED_REQUESTS].iter().any(|name| dir.join(name).exists()) {
        return Err(FolderError::Taken { path: dir.into() });
    }
    can_write_in(dir).map_err(|source| FolderError::Write { path: dir.into(), source })
}

/// The file of the requests of a run or a simulation. Fails when the folder has the requests of either already.
pub fn create_records(dir: &Path, name: &str) -> Result<BufWriter<File>, FolderError> {
    vacant(dir)?;
    let taken = || FolderError::Taken { path: dir.into() };
    let created = OpenOptions::new().write(true).create_new(true).open(dir.join(name));
    created.map(BufWriter::new).map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => taken(),
        _ => FolderError::Write { path: dir.into(), source },
    })
}

/// A file of records, to be gone on with. A last line that was cut off is none.
fn append_after_lines(path: &Path) -> std::io::Result<BufWriter<File>> {
    let file = OpenOptions::new().append(true).open(path)?;
    let (mut lines, mut line, mut whole) = (BufReader::new(File::open(path)?), Vec::new(), 0);
    while lines.read_until(b'\n', &mut line)? > 0 {
        if line.ends_with(b"\n") {
            whole += line.len() as u64;
        }
        line.clear();
    }
    file.set_len(whole)?;
    Ok(BufWriter::new(file))
}

/// Every change of the file is whole or an error, so what a panicking holder left is as good as any.
fn lock(samples: &Mutex<SamplesFile>) -> MutexGuard<'_, SamplesFile> {
    samples.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lines<T: Serialize>(file: &mut BufWriter<File>, records: &[T]) -> std::io::Result<()> {
    for record in records {
        serde_json::to_writer(&mut *file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::synthetic;
    use dualpool_types::records::RequestRecord;

    #[test]
    fn records_are_on_disk_after_each_append() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = RunFolder::create(Identity::now("dual_pool", &dir.path().join("deep/run"))).unwrap();
        let requests = synthetic::arm("a", 1, 3, 1.0);
        for appended in 1..=2 {
            folder.append(&Recording { requests: requests.clone(), ..Recording::default() }).unwrap();
            let text = fs::read_to_string(folder.dir().join("requests.jsonl")).unwrap();
            let read: Vec<RequestRecord> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            assert_eq!(read.len(), 3 * appended);
            assert_eq!(read[..3], requests);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "in the way").unwrap();
        let error = RunFolder::create(Identity::now("dual_pool", &dir.path().join("file/run"))).unwrap_err().to_string();
        assert!(error.starts_with("cannot write the run folder") && error.contains("file/run"), "{error}");
    }

    #[test]
    fn an_abandoned_folder_is_gone_unless_it_holds_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = dir.path().join("fresh");
        RunFolder::create(Identity::now("dual_pool", &fresh)).unwrap().abandon();
        assert!(!fresh.exists());
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        RunFolder::create(Identity::now("dual_pool", dir.path())).unwrap().abandon();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
    }

    #[test]
    fn a_folder_with_a_run_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        RunFolder::create(Identity::now("dual_pool", dir.path())).unwrap();
        assert!(matches!(RunFolder::create(Identity::now("dual_pool", dir.path())), Err(FolderError::Taken { .. })));
    }

    #[test]
    fn ids_are_utc_times_and_a_suffix() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(Identity::now("dual_pool", dir.path())).unwrap();
        assert!(folder.id().contains("T") && folder.id().contains("Z-"), "{}", folder.id());
        assert!(folder.started_at().parse::<Timestamp>().is_ok());
    }
}
