//! Paths of the project's own Python: the virtual environment, the connector, the test programs; and of the tiny models.

use std::path::PathBuf;
use std::process::Command;

use crate::support::root;

/// A program of `tests/python` in the project's virtual environment.
pub fn program(name: &str) -> Command {
    let python = root().join(".venv/bin/python");
    assert!(python.exists(), "{} is missing; `make setup` makes it", python.display());
    let mut command = Command::new(python);
    let path = std::env::join_paths([root().join("python"), root().join("tests/python")]).unwrap();
    command.arg(root().join("tests/python").join(name)).env("PYTHONPATH", path);
    command
}

/// The folder of a model that set-up made.
pub fn model(name: &str) -> PathBuf {
    let folder = root().join("models").join(name);
    assert!(folder.join("config.json").exists(), "{} is missing; `make setup` makes it", folder.display());
    folder
}

fn passes(program: &mut Command) {
    let output = program.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What needs no engine: strides to byte ranges, the version check, request parameters.
#[test]
fn connector_parts() {
    passes(&mut program("connector_parts.py"));
}

/// What a step is made of, with vLLM's own scheduler underneath.
#[test]
fn scheduler_steps() {
    passes(program("scheduler_steps.py").arg(model("tiny-llama")));
}

/// The connector's end of a link that neither side has closed yet.
#[test]
fn half_closed_links() {
    passes(&mut program("half_closed_links.py"));
}
