//! Stand-in drivers. They are packages of their own under `tests/fakes`, which cargo builds beside the tests; nothing links to them.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The library that a package of `tests/fakes` is.
pub fn library(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().with_file_name(format!("lib{name}.so"))
}

/// A folder with an NVML of its own, which does what its script says: `LD_LIBRARY_PATH` for a program, `library` for this process.
pub struct FakeNvml {
    folder: TempDir,
}

impl FakeNvml {
    pub fn new(script: &str) -> FakeNvml {
        let folder = tempfile::tempdir().unwrap();
        // A copy: the loader takes two links to one file for the same library, with one set of GPUs.
        std::fs::copy(library("fake_nvml"), folder.path().join("libnvidia-ml.so.1")).unwrap();
        std::fs::write(folder.path().join("nvml.json"), script).unwrap();
        FakeNvml { folder }
    }

    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
