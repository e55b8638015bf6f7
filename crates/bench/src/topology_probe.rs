//! The `topology_probe` target: keeps the topology in a folder, as a document and as a drawing of it.

use std::path::{Path, PathBuf};

use dualpool_report::topology::{FILE, svg};
use dualpool_types::records::{replace_file, replace_json};
use dualpool_types::topology::Topology;

use super::folder::{FolderError, Identity};
use super::target::TOPOLOGY_PROBE;

/// Where `dualpool topology` keeps what it found last.
pub const LATEST: &str = "artifacts/topology";

const DRAWING: &str = "topology.svg";

/// A folder of its own, `artifacts/topology_probe/<id>` or `out`, for one run. Fails when it holds a topology already.
pub fn keep_run(out: &Path, topology: &Topology) -> Result<PathBuf, FolderError> {
    let dir = Identity::now(TOPOLOGY_PROBE.name, out).dir;
    if dir.join(FILE).exists() {
        return Err(FolderError::Taken { path: dir });
    }
    keep(&dir, topology)?;
    Ok(dir)
}

/// In this folder, in place of what was found before.
pub fn keep(dir: &Path, topology: &Topology) -> Result<(), FolderError> {
    replace_json(&dir.join(FILE), topology).map_err(|source| FolderError::Write { path: dir.to_path_buf(), source })?;
    draw(dir, topology).map(|_| ())
}

/// The drawing alone; returns its path.
pub fn draw(dir: &Path, topology: &Topology) -> Result<PathBuf, FolderError> {
    let path = dir.join(DRAWING);
    replace_file(&path, &svg(topology)).map_err(|source| FolderError::Write { path: dir.to_path_buf(), source })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_machine::topology;
    use dualpool_report::topology::load_topology;
    use std::fs;

    #[test]
    fn what_was_kept_is_read_again_and_replaced_by_what_is_found_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut found = topology::of_xml(include_str!("../../../tests/data/topology/nvidia-dgx2-16xV100.xml"), None).unwrap();
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
