//! A CUDA driver of virtual GPUs for programs that are started with it. A process loads one driver only, so what uses it is a process of
//! its own.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::fakes;

/// A folder with the stand-in driver under the names that the real one has.
pub struct FakeCuda {
    folder: TempDir,
}

impl FakeCuda {
    pub fn new() -> FakeCuda {
        let folder = tempfile::tempdir().unwrap();
        let library = fakes::library("fake_cuda");
        for name in LIBRARY_NAMES {
            std::os::unix::fs::symlink(&library, folder.path().join(name)).unwrap();
        }
        FakeCuda { folder }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts `command` with the virtual GPUs of `script` (the keys are in `tests/fakes/cuda/src/script.rs`).
    pub fn for_command(&self, command: &mut Command, script: &str) {
        load_from(self.folder(), command);
        command.env("FAKE_CUDA", script).env_remove("CUDA_VISIBLE_DEVICES");
    }
}

/// Both names are tried, the first one first: a real driver of this machine must not win.
pub const LIBRARY_NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];

/// Makes the loader look in `folder` first.
pub fn load_from(folder: &Path, command: &mut Command) {
    let others = std::env::var_os("LD_LIBRARY_PATH");
    let folders = std::iter::once(folder.to_path_buf()).chain(others.iter().flat_map(std::env::split_paths));
    command.env("LD_LIBRARY_PATH", std::env::join_paths(folders).unwrap());
}
