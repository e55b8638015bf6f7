//! Run folders, and the end of the one that is watched.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;

use dualpool_report::{Overview, earlier, workload_folders};
use dualpool_types::artifact::RunInfo;
use dualpool_types::records::Sample;
use dualpool_types::{Failure, Micros, Time, UserError, age};

/// Where runs are found; `dualpool run` makes them there.
const ARTIFACTS: &str = "artifacts";

/// The end of samples.jsonl that is read: some seconds of a machine with many GPUs.
const TAIL_BYTES: u64 = 512 << 10;

/// A run whose file does not change for this long gives no samples: engines are starting, or it was killed.
const SILENCE_MIN: Micros = Micros(3_000_000);

/// A run as its folder shows it.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub folder: PathBuf,
    pub status: Status,
    pub info: Option<RunInfo>,
    /// The latest ones, oldest first.
    pub samples: Vec<Sample>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    /// No sample came for so long.
    Silent(Micros),
    Finished,
}

/// The user named a folder that holds no run, or several.
#[derive(Debug, Error)]
enum NoRun {
    #[error("{} has no samples.jsonl, so it is no run folder; give one that `dualpool run` made", .0.display())]
    Missing(PathBuf),
    #[error("{} is of several workloads; give the folder of one that was begun: {}", folder.display(), listed(workloads))]
    Several { folder: PathBuf, workloads: Vec<PathBuf> },
}

fn listed(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl UserError for NoRun {
    fn hint(&self) -> &'static str {
        "without a folder, `dualpool top` watches the newest run under artifacts/"
    }
}

/// The runs that can be watched.
pub(super) struct Runs {
    /// The one the user named.
    named: Option<PathBuf>,
    /// The one chosen with the arrow keys; none = the newest.
    chosen: Option<PathBuf>,
    seen: Option<Seen>,
}

/// How samples.jsonl of the run watched was seen last.
struct Seen {
    run: PathBuf,
    length: u64,
    /// When that length was found, and how old the file was by its own date then.
    found: Time,
    age: Micros,
}

impl Runs {
    pub(super) fn new(named: Option<PathBuf>) -> Result<Runs, Failure> {
        if let Some(folder) = &named {
            if Overview::is_in(folder) {
                let workloads = workload_folders(folder)?.unwrap_or_default();
                return Err(NoRun::Several { folder: folder.clone(), workloads }.into());
            }
            if !folder.join("samples.jsonl").is_file() {
                return Err(NoRun::Missing(folder.clone()).into());
            }
        }
        Ok(Runs { named, chosen: None, seen: None })
    }

    pub(super) fn look(&mut self, now: Time) -> Option<Watched> {
        let folder =
            self.named.clone().or(self.chosen.clone()).or_else(|| newest_first(Path::new(ARTIFACTS)).into_iter().next())?;
        let file = folder.join("samples.jsonl");
        let translation = earlier::translation(&folder, "samples.jsonl").ok().flatten();
        let (samples, length) = tail(&file, translation).unwrap_or_default();
        let seen = match self.seen.take() {
            Some(seen) if seen.run == folder && seen.length == length => seen,
            _ => {
                let date = fs::metadata(&file).and_then(|file| file.modified());
                Seen { run: folder.clone(), length, found: now, age: date.map(age).unwrap_or_default() }
            }
        };
        let silent = seen.age + now.since(seen.found);
        self.seen = Some(seen);
        let status = match folder.join("summary.json").exists() {
            true => Status::Finished,
            false if silent >= SILENCE_MIN => Status::Silent(silent),
            false => Status::Running,
        };
        // It is replaced in one go, so it is whole or not there.
        let info = fs::read_to_string(folder.join("run.json")).ok().and_then(|text| serde_json::from_str(&text).ok());
        Some(Watched { folder, status, info, samples })
    }

    /// Goes to the next older run, or to the next newer one; from the newest on, whatever is newest is watched.
    pub(super) fn step(&mut self, older: bool) {
        if self.named.is_some() {
            return;
        }
        let runs = newest_first(Path::new(ARTIFACTS));
        let at = self.chosen.as_ref().and_then(|chosen| runs.iter().position(|run| run == chosen)).unwrap_or(0);
        let to = if older { (at + 1).min(runs.len().saturating_sub(1)) } else { at.saturating_sub(1) };
        self.chosen = if to == 0 { None } else { runs.get(to).cloned() };
    }
}

/// The run folders by the last change of their samples.
fn newest_first(artifacts: &Path) -> Vec<PathBuf> {
    let folders =
        |dir: &Path| -> Vec<PathBuf> { fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect() };
    let changed = |run: PathBuf| -> Option<(SystemTime, PathBuf)> {
        Some((fs::metadata(run.join("samples.jsonl")).ok()?.modified().ok()?, run))
    };
    let of_target = folders(artifacts).into_iter().flat_map(|target| folders(&target));
    // A run of several workloads has its samples in their folders.
    let with_parts = of_target.flat_map(|run| if Overview::is_in(&run) { folders(&run) } else { vec![run] });
    let mut runs: Vec<_> = with_parts.filter_map(changed).collect();
    runs.sort_unstable_by(|a, b| b.cmp(a));
    runs.into_iter().map(|(_, run)| run).collect()
}

/// The samples at the end of the file, and the file's length. The file is read anew each time: its end is cut off and replaced whenever
/// an arm's run is over.
fn tail(path: &Path, translation: Option<earlier::Translation>) -> io::Result<(Vec<Sample>, u64)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut text)?;
    // The first line may have begun before, and the last one may not be whole yet: neither parses.
    let samples = text.split(|&byte| byte == b'\n').filter_map(|line| earlier::parse(line, translation).ok());
    Ok((samples.collect(), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE_TO_COME: std::time::Duration = std::time::Duration::from_secs(1 << 33);

    const LINE: &str = r#"{"arm":"a","repetition":0,"at_us":5,"engine":0,"role":"shared","waiting":1,"running":2,"kv_usage":null,"prefix_hits":null}"#;

    #[test]
    fn the_tail_has_whole_lines_only_and_reads_lines_of_older_versions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.jsonl");
        fs::write(&path, format!("{LINE}\n{LINE}\n{}", &LINE[..20])).unwrap();
        let (samples, length) = tail(&path, None).unwrap();
        assert!(matches!(&samples[..], [Sample::Engine(a), Sample::Engine(b)] if a == b && a.transfers_in == 0), "{samples:?}");
        assert_eq!(length, 2 * (LINE.len() as u64 + 1) + 20);
        let many = TAIL_BYTES as usize / LINE.len() * 2;
        fs::write(&path, format!("{LINE}\n").repeat(many)).unwrap();
        let (samples, _) = tail(&path, None).unwrap();
        assert!(samples.len() > many / 3 && samples.len() < many, "{} of {many}", samples.len());
    }

    #[test]
    fn a_run_is_running_until_its_file_stands_still_and_finished_with_its_summary() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("samples.jsonl");
        // Its date is still to come, so that the test may take its time.
        let write = |text: &str| {
            fs::write(&file, text).unwrap();
            File::options().append(true).open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH + DATE_TO_COME).unwrap();
        };
        write(LINE);
        let mut runs = Runs::new(Some(dir.path().into())).unwrap();
        let mut status = |at: u64| runs.look(Time(at)).unwrap().status;
        assert_eq!((status(1_000), status(2_000)), (Status::Running, Status::Running));
        assert_eq!(status(4_001_000), Status::Silent(Micros(4_000_000)));
        write(&format!("{LINE}\n{LINE}"));
        assert_eq!(status(5_000_000), Status::Running);
        fs::write(dir.path().join("summary.json"), "{}").unwrap();
        assert_eq!(status(5_000_000), Status::Finished);
    }

    #[test]
    fn a_run_that_ended_long_ago_is_not_running_at_the_first_look() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("samples.jsonl")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let status = Runs::new(Some(dir.path().into())).unwrap().look(Time(0)).unwrap().status;
        assert!(matches!(status, Status::Silent(time) if time.as_secs() > 1e9), "{status:?}");
    }

    #[test]
    fn a_folder_without_a_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Runs::new(Some(dir.path().into())).err().unwrap().to_string();
        assert!(error.contains("no samples.jsonl"), "{error}");
    }

    #[test]
    fn runs_are_found_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        for (name, age) in [("dual_pool/old", 60), ("other/new", 5), ("dual_pool/middle", 30)] {
            let run = dir.path().join(name);
            fs::create_dir_all(&run).unwrap();
            let file = File::create(run.join("samples.jsonl")).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 - age)).unwrap();
        }
        fs::create_dir_all(dir.path().join("topology/no-run")).unwrap();
        let found: Vec<_> =
            newest_first(dir.path()).iter().map(|run| run.strip_prefix(dir.path()).unwrap().to_path_buf()).collect();
        assert_eq!(found, ["other/new", "dual_pool/middle", "dual_pool/old"].map(PathBuf::from));
    }
}
