//! `--profile` from outside: what the tools are called with, what they are given to see, and what comes of it. The tool is a script.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::program::{self, root, text};
use crate::support::schemas;

/// Made by hand after the columns of the tool's report.
const TRACE: &str = include_str!("../../../crates/bench/src/profile/fixtures/cuda_gpu_trace.csv");

/// A small run on virtual engines in which every request changes engines.
const HANDOFF: [&str; 13] = [
    "profile",
    "handoff",
    "--device",
    "virtual",
    "--rate",
    "8",
    "--prefill-burst",
    "1",
    "--decode-requests",
    "4",
    "--continue-requests",
    "0",
    "--quick",
];

/// A folder that the program runs in, with the stand-in tool and all that it writes.
struct Bench(TempDir);

impl Bench {
    fn new() -> Bench {
        let bench = Bench(tempfile::tempdir().unwrap());
        let source = root().join("tests/command_line/profile");
        std::fs::create_dir(bench.path("bin")).unwrap();
        symlink(source.join("nsys"), bench.path("bin/nsys")).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(bench.path("injection.so")).arg(source.join("injection.c"));
        assert!(compiler.status().unwrap().success());
        std::fs::write(bench.path("trace.csv"), TRACE).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn dualpool(&self, args: &[&str]) -> Command {
        let mut command = program::dualpool(&self.0, args);
        command.env("STAND_IN", self.0.path());
        command
    }

    /// With the stand-in as the first tool on PATH.
    fn with_tool(&self, args: &[&str]) -> Output {
        self.tooled(args).output().unwrap()
    }

    fn tooled(&self, args: &[&str]) -> Command {
        let (path, mut command) = (std::env::var("PATH").unwrap(), self.dualpool(args));
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command
    }

    /// With no tool at all.
    fn without_tool(&self, args: &[&str]) -> Output {
        self.dualpool(args).env("PATH", self.path("nowhere")).output().unwrap()
    }

    fn profile(&self, run: &str) -> Value {
        serde_json::from_str(&self.read(&format!("{run}/profile.json"))).unwrap()
    }
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn nsys_watches_a_second_run_of_the_program_and_its_report_becomes_the_profile() {
    let bench = Bench::new();
    let shown = succeeded(&bench.with_tool(&HANDOFF));
    let calls = bench.read("calls");
    let [watch, print] = calls.lines().collect::<Vec<_>>()[..] else { panic!("{calls}") };
    let flags = [
        "profile --trace=cuda,nvtx,osrt",
        "--trace-fork-before-exec=true",
        "--cuda-graph-trace=node",
        "--wait=primary",
        "--force-overwrite=true",
    ];
    for flag in flags {
        assert!(watch.contains(flag), "`{flag}` is missing in: {watch}");
    }
    // The program is given all it was called with, and the folder that both agree on.
    assert!(watch.contains("dualpool profile handoff --device virtual"), "{watch}");
    let dir = watch.rsplit_once("--out ").unwrap().1;
    assert!(dir.starts_with("artifacts/dual_pool/") && watch.contains(&format!("--output={dir}/profile ")), "{watch}");
    assert_eq!(print, format!("stats --report cuda_gpu_trace --format csv --force-export=true --output - {dir}/profile.nsys-rep"));

    let profile = bench.profile(dir);
    assert_eq!((&profile["schema_version"], &profile["source"], &profile["asked"]), (&1.into(), &"nsys".into(), &"nsys".into()));
    assert_eq!(profile["report"], "profile.nsys-rep");
    assert_eq!((&profile["copies"][1]["bytes"], &profile["copies"][1]["gb_per_s"]), (&6_000_000.into(), &100.0.into()));
    assert_eq!(profile["devices"][0]["overlap_us"], 40.0);
    assert!(shown.contains("Profile, by Nsight Systems") && shown.contains("100.00 GB/s"), "{shown}");
    assert!(bench.path(dir).join("run.json").exists());
    for name in ["profile.csv.part", "profile.sqlite"] {
        assert!(!bench.path(dir).join(name).exists(), "{name} is left behind");
    }
}

/// A run that is not over before it is stopped.
const LONG: [&str; 20] = [
    "run",
    "dual_pool",
    "--device",
    "virtual",
    "--arms",
    "shared_round_robin",
    "--profile",
    "nsys",
    "--rate",
    "8",
    "--prefill-burst",
    "1",
    "--decode-requests",
    "5",
    "--continue-requests",
    "0",
    "--repetitions",
    "50",
    "--out",
    "run",
];

/// It ended as by one Ctrl-C: its figures are there, and what the tool saw.
#[track_caller]
fn ended_in_order(bench: &Bench, code: Option<i32>, said: &str) {
    assert_eq!((code, said.matches("stopping").count()), (Some(130), 1), "{said}");
    let run: Value = serde_json::from_str(&bench.read("run/run.json")).unwrap();
    assert_eq!(run["interrupted"], true);
    assert!(bench.path("run/summary.json").exists(), "{said}");
    assert_eq!(bench.profile("run")["source"], "nsys");
}

#[test]
fn the_tools_signal_behind_a_ctrl_c_is_not_a_second_one() {
    let bench = Bench::new();
    std::fs::write(bench.path("ctrl-c"), "").unwrap();
    let output = bench.with_tool(&LONG);
    ended_in_order(&bench, output.status.code(), &text(&output.stderr));
}

#[test]
fn what_asks_this_program_alone_to_end_ends_the_watched_run_in_order() {
    let bench = Bench::new();
    let mut child = bench.tooled(&LONG).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.starts_with("measurement ")).expect("the run ended before its measurement");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    let rest: Vec<String> = lines.collect();
    ended_in_order(&bench, child.wait().unwrap().code(), &rest.join("\n"));
}

#[test]
fn a_profile_that_cannot_be_written_changes_nothing_about_the_run() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.path("run/profile.json")).unwrap();
    let output = bench.with_tool(&[&HANDOFF[..], &["--profile", "minimal", "--out", "run"]].concat());
    succeeded(&output);
    assert!(
        text(&output.stderr).contains("note: there is no profile.json: cannot write run/profile.json"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_run_that_never_began_leaves_no_profile_in_a_folder_that_was_there() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("run")).unwrap();
    let args = ["run", "dual_pool", "--profile", "minimal", "--device", "cpu", "--venv", "nowhere", "--out", "run"];
    assert_eq!(bench.without_tool(&args).status.code(), Some(1));
    assert_eq!(std::fs::read_dir(bench.path("run")).into_iter().flatten().count(), 0);
}

#[test]
fn a_profiler_sees_the_phases_of_requests_and_the_copies() {
    let bench = Bench::new();
    succeeded(&bench.with_tool(&HANDOFF));
    let ranges = bench.read("ranges");
    let named = |name: &str| ranges.lines().filter(|line| line.contains(" begin ") && line.ends_with(name)).count();
    let prefills = named("prefill engine-0");
    assert!(prefills > 0, "{ranges}");
    for name in ["handoff engine-0 > engine-1", "copy engine-0 > engine-1", "decode engine-1"] {
        assert!(named(name) > 0, "`{name}` is missing in: {ranges}");
    }
    let count = |what: &str| ranges.lines().filter(|line| line.split(' ').nth(1) == Some(what)).count();
    assert_eq!(count("begin"), count("end"), "every range that begins ends");
}

#[test]
fn a_report_of_no_use_leaves_the_programs_own_timings_and_says_so() {
    let bench = Bench::new();
    std::fs::write(bench.path("trace.csv"), "SKIPPED: profile.sqlite does not contain CUDA trace data.\n").unwrap();
    let output = bench.with_tool(&[&HANDOFF[..], &["--out", "run"]].concat());
    succeeded(&output);
    assert!(!bench.read("calls").contains("--out run --out"), "the folder was given already");
    let profile = bench.profile("run");
    assert_eq!((&profile["source"], &profile["asked"]), (&"in_process".into(), &"nsys".into()));
    let note = profile["note"].as_str().unwrap();
    assert!(note.contains("does not contain CUDA trace data"), "{note}");
    assert!(profile["copies"][0]["count"].as_u64().unwrap() > 0);

    std::fs::write(bench.path("no-report"), "").unwrap();
    succeeded(&bench.with_tool(&[&HANDOFF[..], &["--out", "again"]].concat()));
    assert!(bench.profile("again")["note"].as_str().unwrap().contains("left no again/profile.nsys-rep"));
}

#[test]
fn without_the_tool_the_run_is_made_all_the_same() {
    let bench = Bench::new();
    let output = bench.without_tool(&[&HANDOFF[..], &["--out", "run"]].concat());
    let shown = succeeded(&output);
    let said = text(&output.stderr);
    assert!(said.contains("note: nsys (NVIDIA Nsight Systems) is not on PATH"), "{said}");
    let profile = bench.profile("run");
    assert_eq!((&profile["source"], &profile["report"]), (&"in_process".into(), &Value::Null));
    let records = bench.read("run/requests.jsonl");
    let handoffs: Vec<Value> = records
        .lines()
        .flat_map(|line| serde_json::from_str::<Value>(line).unwrap()["handoffs"].as_array().unwrap().clone())
        .collect();
    let sum = |key: &str| handoffs.iter().map(|handoff| handoff[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(profile["copies"][0]["count"], handoffs.len());
    assert_eq!(profile["copies"][0]["bytes"], sum("bytes"));
    assert_eq!(profile["copies"][0]["time_us"], sum("copy_us") as f64);
    assert_eq!(profile["devices"][0]["overlap_us"], Value::Null);
    assert!(shown.contains("Profile, by this program's own timings"), "{shown}");
    assert!(schemas::all_fit(&bench.path("run")).iter().any(|name| name == "profile.json"));
}

#[test]
fn minimal_asks_for_no_tool_and_json_stays_json() {
    let bench = Bench::new();
    let args = ["run", "dual_pool", "--arms", "full_disaggregation", "--profile", "minimal", "--json", "--out", "run"];
    let output = bench.with_tool(&[&args[..], &HANDOFF[2..]].concat());
    let summary: Value = serde_json::from_str(&succeeded(&output)).unwrap();
    assert_eq!(summary["target"], "dual_pool");
    assert_eq!((&bench.profile("run")["asked"], &bench.profile("run")["note"]), (&"minimal".into(), &Value::Null));
    assert!(!bench.path("calls").exists());
}

#[test]
fn another_runs_folder_is_left_alone() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("run")).unwrap();
    std::fs::write(bench.path("run/requests.jsonl"), "").unwrap();
    let output = bench.with_tool(&[&HANDOFF[..], &["--out", "run"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(!bench.path("calls").exists() && !bench.path("run/profile.json").exists());
}

#[test]
fn what_the_watched_run_ends_with_is_what_the_program_ends_with() {
    let bench = Bench::new();
    let output = bench.with_tool(&["run", "dual_pool", "--profile", "nsys", "--device", "cpu", "--venv", "nowhere"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("error: the engines did not start"), "{}", text(&output.stderr));
    assert!(bench.read("calls").starts_with("profile "));
    // Nothing was measured, so there is neither a run's folder nor a profile.
    assert_eq!(std::fs::read_dir(bench.path("artifacts/dual_pool")).unwrap().count(), 0);
}

#[test]
fn an_unknown_kind_is_a_usage_error() {
    let output = Bench::new().without_tool(&["run", "dual_pool", "--profile", "nsight"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("none, minimal, nsys, ncu"), "{}", text(&output.stderr));
}

#[test]
fn the_former_name_is_refused_with_the_one_of_today() {
    let output = Bench::new().without_tool(&["profile", "migration"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is called `dualpool profile handoff` now"), "{}", text(&output.stderr));
}
