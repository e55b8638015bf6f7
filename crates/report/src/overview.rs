//! The folder of a run that has several parts: each has a folder of its own in it, with all that a run leaves, and one file names them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use dualpool_types::records::replace_json;

use super::{Artifacts, LoadError, load};

/// There as soon as the run begins.
pub const FILE: &str = "parts.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// The parts' folders, in the order in which they run.
    pub parts: Vec<String>,
}

impl Overview {
    pub fn write(&self, dir: &Path) -> std::io::Result<()> {
        replace_json(&dir.join(FILE), self)
    }

    /// Of the run in this folder; none where its files lie in the folder itself.
    pub fn read(dir: &Path) -> Result<Option<Overview>, LoadError> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LoadError::Read { path, source }),
        };
        let mend = "give the folder of one part, or repeat the run";
        serde_json::from_str(&text).map(Some).map_err(|e| LoadError::Json { path, line: e.line(), why: e.to_string(), mend })
    }
}

/// The folders of the parts that were begun, in order; none where the run in this folder has no parts.
pub fn part_folders(dir: &Path) -> Result<Option<Vec<PathBuf>>, LoadError> {
    let Some(Overview { parts }) = Overview::read(dir)? else { return Ok(None) };
    // A part is one folder in this one: a name that leads elsewhere is none of ours.
    let folders = parts.iter().map(|part| dir.join(Path::new(part).file_name().unwrap_or_default()));
    Ok(Some(folders.filter(|dir| dir.is_dir()).collect()))
}

/// The artifacts of all parts of the run in this folder that were begun, in order; of the run itself where it has no parts.
pub fn load_parts(dir: &Path) -> Result<Vec<Artifacts>, LoadError> {
    match part_folders(dir)? {
        None => Ok(vec![load(dir)?]),
        Some(folders) => folders.iter().map(|dir| load(dir)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_run_is_read_with_its_parts_or_as_its_only_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load_parts(dir.path()), Err(LoadError::NoRun(_))));
        let written = Overview { parts: ["mixed", "trace"].map(String::from).to_vec() };
        written.write(dir.path()).unwrap();
        assert_eq!(Overview::read(dir.path()).unwrap(), Some(written));
        assert_eq!(load_parts(dir.path()).unwrap().len(), 0, "none was begun");
        std::fs::create_dir(dir.path().join("mixed")).unwrap();
        fixture::write(&fixture::small(), &dir.path().join("mixed"));
        assert_eq!(load_parts(dir.path()).unwrap().len(), 1);
        assert_eq!(load_parts(&dir.path().join("mixed")).unwrap().len(), 1);
    }
}
