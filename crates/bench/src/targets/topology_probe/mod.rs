//! The `topology_probe` target: keeps the topology in a folder, as a document and as a drawing of it.

use std::path::{Path, PathBuf};

use dualpool_fleet::Progress;
use dualpool_machine::topology;
use dualpool_report::topology::{FILE, svg, text};
use dualpool_types::Failure;
use dualpool_types::records::{replace_file, replace_json};
use dualpool_types::topology::Topology;

use crate::folder::{FolderError, Identity};
use crate::target::{Alone, Call, Done, Prepared, Target, json};

/// Where `dualpool topology` keeps what it found last.
pub const LATEST: &str = "artifacts/topology";

const DRAWING: &str = "topology.svg";

pub struct TopologyProbe;

impl Target for TopologyProbe {
    fn name(&self) -> &'static str {
        "topology_probe"
    }

    fn about(&self) -> &'static str {
        "what this machine is made of: GPUs, NUMA nodes, NICs, and how far apart they are; `dualpool topology` shows it, too"
    }

    fn file(&self) -> Option<&'static str> {
        Some(FILE)
    }

    fn prepare(&self, call: &Call) -> Result<Prepared, Failure> {
        Ok(Prepared::Alone(Box::new(Probe { dir: own_folder(&call.settings.run.out)? })))
    }
}

/// A probe that has a folder of its own.
struct Probe {
    dir: PathBuf,
}

impl Alone for Probe {
    fn run(self: Box<Self>, _progress: &dyn Progress) -> Result<Done, Failure> {
        let found = topology::of_machine(None).map_err(anyhow::Error::from)?;
        keep(&self.dir, &found)?;
        Ok(Done::whole(move |view| shown(&self.dir, &found, view.json)))
    }
}

/// A topology as the terminal shows it, kept in this folder.
pub fn shown(dir: &Path, topology: &Topology, as_json: bool) -> Result<String, Failure> {
    match as_json {
        true => json(topology),
        false => Ok(format!("{}\nartifacts: {}\n", text(topology), dir.join(FILE).display())),
    }
}

/// `artifacts/topology_probe/<id>`, or `out`, for one run. Fails when it holds a topology already.
fn own_folder(out: &Path) -> Result<PathBuf, FolderError> {
    let dir = Identity::now(TopologyProbe.name(), out).dir;
    if dir.join(FILE).exists() { Err(FolderError::Taken { path: dir }) } else { Ok(dir) }
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
    use dualpool_report::topology::load_topology;
    use std::fs;

    #[test]
    fn what_was_kept_is_read_again_and_replaced_by_what_is_found_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut found = topology::of_xml(include_str!("../../../../../tests/data/topology/nvidia-dgx2-16xV100.xml"), None).unwrap();
        keep(dir.path(), &found).unwrap();
        assert_eq!(load_topology(dir.path()).unwrap(), found);
        found.notes.push("a second look".into());
        keep(dir.path(), &found).unwrap();
        assert_eq!(load_topology(dir.path()).unwrap(), found);
        let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, [FILE, DRAWING]);
        assert!(matches!(own_folder(dir.path()), Err(FolderError::Taken { .. })));
    }
}
