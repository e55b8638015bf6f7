//! Paths of the project's own Python: the virtual environment, the connector, the test programs, and the tiny models they make.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use xxhash_rust::xxh3::xxh3_64;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A program of `tests/python` in the project's virtual environment.
pub fn program(name: &str) -> Command {
    let python = root().join(".venv/bin/python");
    assert!(python.exists(), "{} is missing; `make setup` makes it", python.display());
    let mut command = Command::new(python);
    let path = std::env::join_paths([root().join("python"), root().join("tests/python")]).unwrap();
    command.arg(root().join("tests/python").join(name)).env("PYTHONPATH", path);
    // Byte code makes vLLM start three times as fast; a cache of our own, since the environment may not be writable.
    if std::env::var_os("PYTHONPYCACHEPREFIX").is_none() {
        command.env("PYTHONPYCACHEPREFIX", scratch().join("pycache"));
    }
    command.env_remove("PYTHONDONTWRITEBYTECODE");
    command
}

/// The folder of a tiny random model, made on first use.
pub fn model(name: &str) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let recipe = std::fs::read(root().join("tests/python/tiny_models.py")).unwrap();
    let folder = scratch().join(format!("tiny-{name}-{:016x}", xxh3_64(&recipe)));
    if !folder.exists() {
        // Under another name first, so that a half-made model is never taken for a whole one.
        let half_made = tempfile::tempdir_in(scratch()).unwrap();
        let output = program("tiny_models.py").arg(name).arg(half_made.path()).output().unwrap();
        assert!(output.status.success(), "tiny_models.py {name}: {}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(half_made.keep(), &folder).unwrap();
    }
    folder
}

fn passes(program: &mut Command) {
    let output = program.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What needs no engine: strides to byte runs, the version check, request parameters.
#[test]
fn connector_parts() {
    passes(&mut program("connector_parts.py"));
}

/// What a step is made of, with vLLM's own scheduler underneath.
#[test]
fn scheduler_steps() {
    passes(program("scheduler_steps.py").arg(model("llama")));
}

/// The connector's end of a link that neither side has closed yet.
#[test]
fn half_closed_links() {
    passes(&mut program("half_closed_links.py"));
}
