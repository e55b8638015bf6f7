//! Stand-in drivers, built on demand. They are packages of their own under `tests/fakes`, so nothing of the product links to them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use tempfile::TempDir;

/// The library that `package` builds. The first caller of a process builds it.
pub fn library(package: &str) -> PathBuf {
    static BUILT: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap();
    if let Some((_, path)) = built.iter().find(|(name, _)| name == package) {
        return path.clone();
    }
    let path = build(package);
    built.push((package.to_string(), path.clone()));
    path
}

fn build(package: &str) -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--message-format=json", "-p", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{package} does not build:\n{}", String::from_utf8_lossy(&built.stderr));
    let messages = String::from_utf8(built.stdout).unwrap();
    let mut libraries = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let ours = message["target"]["name"].as_str()? == package.replace('-', "_") && message["reason"] == "compiler-artifact";
        let files = message["filenames"].as_array()?.iter().filter_map(|file| file.as_str());
        ours.then(|| files.filter(|file| file.ends_with(".so")).map(PathBuf::from).next()).flatten()
    });
    libraries.next_back().unwrap_or_else(|| panic!("{package} built no library:\n{messages}"))
}

/// A folder with an NVML of its own, which does what its script says: `LD_LIBRARY_PATH` for a program, `library` for this process.
pub struct FakeNvml {
    folder: TempDir,
}

impl FakeNvml {
    pub fn new(script: &str) -> FakeNvml {
        let folder = tempfile::tempdir().unwrap();
        // A copy: the loader takes two links to one file for the same library, with one set of GPUs.
        std::fs::copy(library("fake-nvml"), folder.path().join("libnvidia-ml.so.1")).unwrap();
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
