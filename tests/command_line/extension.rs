//! The program as a Python extension module: built, and run by the interpreter of the project's environment. Real engines are run
//! this way by hand only: what differs from the embedding program is the interpreter's start, not what it does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::support::fake_cuda::FakeCuda;
use crate::support::program::{root, text, without_settings};

fn python() -> PathBuf {
    root().join(".venv/bin/python")
}

/// The folder with the package, built once.
fn package() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("extension");
        let mut build = Command::new(root().join("scripts/build_extension"));
        let output = build.arg(&folder).args(["--profile", "dev"]).env("PYTHON", python()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        folder
    })
}

/// `python -m dualpool`, in a folder of its own.
fn dualpool(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(python());
    without_settings(&mut command).args(["-m", "dualpool"]).args(args).env("PYTHONPATH", package()).current_dir(folder);
    command
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", text(&stderr));
    text(&stdout)
}

#[test]
fn the_command_line_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(succeeds(&mut dualpool(folder.path(), &["--version"])), format!("dualpool {}\n", env!("CARGO_PKG_VERSION")));
    assert!(succeeds(&mut dualpool(folder.path(), &["list-targets"])).starts_with("dual_pool "));
    let wrong = dualpool(folder.path(), &["run", "dual_poll"]).output().unwrap();
    assert_eq!((wrong.status.code(), text(&wrong.stdout).as_str()), (Some(2), ""));
    assert!(text(&wrong.stderr).contains("`dual_poll`"));
    let usage = dualpool(folder.path(), &[]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn virtual_engines_run_and_the_run_names_its_command() {
    let folder = tempfile::tempdir().unwrap();
    let small = ["--rate", "8", "--prefill-burst", "1", "--decode-requests", "4", "--continue-requests", "0", "--out", "run"];
    let run = ["run", "dual_pool", "--device", "virtual", "--quick", "--arms", "shared_round_robin,full_disaggregation"];
    let shown = succeeds(&mut dualpool(folder.path(), &[&run[..], &small].concat()));
    assert!(shown.contains("full_disaggregation") && shown.contains("report.html"), "{shown}");
    let run = std::fs::read_to_string(folder.path().join("run/run.json")).unwrap();
    assert!(run.contains("\"-m\""), "{run}");
}

#[test]
fn gpu_memory_is_held_by_processes_of_the_same_interpreter() {
    let folder = tempfile::tempdir().unwrap();
    let calibrate = ["calibrate", "--quick", "--device", "virtual", "--set", "virtual.kv=cuda", "--out", "run"];
    let (cuda, mut command) = (FakeCuda::new(), dualpool(folder.path(), &calibrate));
    cuda.for_command(&mut command, r#"{"machine":"extension","gpus":2,"memory_mib":1024}"#);
    let shown = succeeds(&mut command);
    assert!(shown.contains("run/migration_cost.json") && folder.path().join("run/migration_cost.json").exists(), "{shown}");
}

#[test]
fn the_environment_is_the_callers() {
    let folder = tempfile::tempdir().unwrap();
    let config = succeeds(&mut dualpool(folder.path(), &["config"]));
    let venv = config.lines().find(|line| line.starts_with("engine.venv ")).unwrap();
    assert!(venv.contains(root().join(".venv").to_str().unwrap()) && venv.ends_with("python -m dualpool"), "{venv}");
    let model = root().join("models/tiny-llama");
    let doctor = ["doctor", "--device", "cpu", "--kv-cache-mib", "64", "--model", model.to_str().unwrap()];
    assert!(succeeds(&mut dualpool(folder.path(), &doctor)).contains("ok      vLLM"));
    // Another one cannot be had in this process.
    let other = ["run", "dual_pool", "--device", "cpu", "--venv", "elsewhere", "--model", model.to_str().unwrap()];
    let refused = dualpool(folder.path(), &other).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("elsewhere needs another process"), "{}", text(&refused.stderr));
}

#[test]
fn without_the_module_the_package_says_how_to_build_it() {
    let output = Command::new(python()).args(["-m", "dualpool"]).env("PYTHONPATH", root().join("python")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("scripts/build_extension"), "{}", text(&output.stderr));
}

#[test]
fn ctrl_c_ends_a_run_in_order() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let folder = tempfile::tempdir().unwrap();
    let args = ["run", "dual_pool", "--device", "virtual", "--arms", "shared_round_robin", "--rate", "8", "--repetitions", "50"];
    let mut child = dualpool(folder.path(), &args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.starts_with("measurement 1/")).expect("the run ended before its measurement");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let rest: Vec<String> = lines.collect();
    // No KeyboardInterrupt of Python's comes after it.
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(
        rest.iter().any(|line| line.starts_with("stopping")) && !rest.iter().any(|line| line.contains("Traceback")),
        "{rest:?}"
    );
}
