//! The folder of a run of several workloads: each has a folder of its own in it, with all that a run leaves, and one file names them.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::artifact::RUN_SCHEMA_VERSION;
use dualpool_types::records::replace_json;

use super::earlier::{PARTS_FILE, Parts};
use super::load::document;
use super::{Artifacts, LoadError, load};

/// There as soon as the run begins.
pub const FILE: &str = "workloads.json";

/// `workloads.json`: the workloads of a run that has several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    /// The version of the run folder's files, as in `run.json`.
    pub schema_version: u32,
    /// The names of the workloads' folders, in the order in which they run. A folder that is not there was not begun.
    pub workloads: Vec<String>,
}

impl Overview {
    pub fn of(workloads: Vec<String>) -> Overview {
        Overview { schema_version: RUN_SCHEMA_VERSION, workloads }
    }

    pub fn write(&self, dir: &Path) -> std::io::Result<()> {
        replace_json(&dir.join(FILE), self)
    }

    /// Whether this is the folder of a run of several workloads.
    pub fn is_in(dir: &Path) -> bool {
        [FILE, PARTS_FILE].iter().any(|file| dir.join(file).is_file())
    }

    /// Of the run in this folder; none where its files lie in the folder itself.
    pub fn read(dir: &Path) -> Result<Option<Overview>, LoadError> {
        let mend = "give the folder of one workload, or repeat the run";
        match document(&dir.join(FILE), mend)? {
            Some(overview) => Ok(Some(overview)),
            None => Ok(document(&dir.join(PARTS_FILE), mend)?.map(|Parts { parts }| Overview::of(parts))),
        }
    }
}

/// The folders of the workloads that were begun, in order; none where the run in this folder has but one.
pub fn workload_folders(dir: &Path) -> Result<Option<Vec<PathBuf>>, LoadError> {
    let Some(Overview { workloads, .. }) = Overview::read(dir)? else { return Ok(None) };
    // Each is one folder in this one: a name that leads elsewhere is none of ours.
    let folders = workloads.iter().map(|name| dir.join(Path::new(name).file_name().unwrap_or_default()));
    Ok(Some(folders.filter(|dir| dir.is_dir()).collect()))
}

/// The artifacts of all workloads of the run in this folder that were begun, in order; of the run itself where it has but one.
pub fn load_workloads(dir: &Path) -> Result<Vec<Artifacts>, LoadError> {
    match workload_folders(dir)? {
        None => Ok(vec![load(dir)?]),
        Some(folders) => folders.iter().map(|dir| load(dir)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_run_is_read_with_its_workloads_or_as_its_only_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load_workloads(dir.path()), Err(LoadError::NoRun(_))));
        let written = Overview::of(["mixed", "trace"].map(String::from).to_vec());
        written.write(dir.path()).unwrap();
        assert_eq!(Overview::read(dir.path()).unwrap(), Some(written));
        assert_eq!(load_workloads(dir.path()).unwrap().len(), 0, "none was begun");
        std::fs::create_dir(dir.path().join("mixed")).unwrap();
        fixture::write(&fixture::small(), &dir.path().join("mixed"));
        assert_eq!(load_workloads(dir.path()).unwrap().len(), 1);
        assert_eq!(load_workloads(&dir.path().join("mixed")).unwrap().len(), 1);
    }
}
