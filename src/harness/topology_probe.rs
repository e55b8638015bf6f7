//! The `topology_probe` target: keeps the topology in a folder, as a document and as a drawing of it.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::folder::{FolderError, json, place, replace};
use super::target::TOPOLOGY_PROBE;
use crate::report::topology::{FILE, Topology, svg};

/// Where `dualpool topology` keeps what it found last.
pub const LATEST: &str = "artifacts/topology";

const DRAWING: &str = "topology.svg";

/// A folder of its own, `artifacts/topology_probe/<id>` or `out`, for one run. Fails when it holds a topology already.
pub fn keep_run(out: &Path, topology: &Topology) -> Result<PathBuf, FolderError> {
    let (dir, _) = place(TOPOLOGY_PROBE.name, out, Timestamp::now());
    if dir.join(FILE).exists() {
        return Err(FolderError::Taken { path: dir });
    }
    keep(&dir, topology)?;
    Ok(dir)
}

/// In this folder, in place of what was found before.
pub fn keep(dir: &Path, topology: &Topology) -> Result<(), FolderError> {
    let write = |source| FolderError::Write { path: dir.to_path_buf(), source };
    fs::create_dir_all(dir).map_err(write)?;
    replace(dir, FILE, &json(topology).map_err(write)?)?;
    draw(dir, topology).map(|_| ())
}

/// The drawing alone; returns its path.
pub fn draw(dir: &Path, topology: &Topology) -> Result<PathBuf, FolderError> {
    replace(dir, DRAWING, &svg(topology))?;
    Ok(dir.join(DRAWING))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::topology;
    use crate::report::topology::load_topology;

    #[test]
    fn what_was_kept_is_read_again_and_replaced_by_what_is_found_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut found = topology::of_xml(include_str!("../../tests/data/topology/nvidia-dgx2-16xV100.xml"), None).unwrap();
        keep(dir.path(), &found).unwrap();
        assert_eq!(load_topology(dir.path()).unwrap(), found);
        found.notes.push("a second look".into());
        keep(dir.path(), &found).unwrap();
        assert_eq!(load_topology(dir.path()).unwrap(), found);
        let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, [FILE, DRAWING]);
        assert!(matches!(keep_run(dir.path(), &found), Err(FolderError::Taken { .. })));
    }
}
