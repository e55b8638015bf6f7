//! `dualpool report`, `plot` and `top` on folders of runs, as a user calls them.

use std::path::Path;

use dualpool_report::Overview;
use dualpool_types::artifact::{Environment, RunInfo};

use crate::support::program::{dualpool, prints, text};

/// A run that has begun, and of which nothing is recorded yet.
fn begun(dir: &Path) {
    let environment = Environment {
        dualpool: "0".into(),
        backend: "vllm".into(),
        model: "models/tiny".into(),
        dtype: "auto".into(),
        os: "Linux".into(),
        cpu: "unknown".into(),
        cores: None,
        memory_bytes: None,
        gpus: vec![],
        engines: vec![],
    };
    let run = RunInfo::begun("dual_pool", "7f3a", "2026-01-05T10:30:00Z", environment);
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("run.json"), serde_json::to_string(&run).unwrap()).unwrap();
    for file in ["requests.jsonl", "samples.jsonl"] {
        std::fs::write(dir.join(file), "").unwrap();
    }
}

#[track_caller]
fn fails(here: &Path, args: &[&str]) -> String {
    let output = dualpool(here, args).output().unwrap();
    assert!(!output.status.success(), "{args:?}: {}", text(&output.stdout));
    text(&output.stderr)
}

#[test]
fn a_run_that_goes_on_is_not_said_to_have_ended() {
    let here = tempfile::tempdir().unwrap();
    begun(&here.path().join("run"));
    for args in [&["report", "run"][..], &["report", "run", "--full"]] {
        let said = prints(here.path(), args);
        assert!(said.contains("is not finished, or it was stopped") && !said.contains("ended"), "{said}");
        assert!(said.contains("run/report.html"), "{said}");
    }
}

#[test]
fn a_run_without_records_is_not_drawn() {
    let here = tempfile::tempdir().unwrap();
    begun(&here.path().join("run"));
    let said = fails(here.path(), &["plot", "run"]);
    assert!(said.contains("there are no records to draw in run; give the folder of a run that served requests"), "{said}");
    assert!(!here.path().join("run/plot.svg").exists());
}

#[test]
fn the_folder_of_several_workloads_is_taken_or_its_workloads_are_named() {
    let here = tempfile::tempdir().unwrap();
    let run = here.path().join("run");
    begun(&run.join("mixed"));
    Overview::of(["mixed", "trace"].map(String::from).to_vec()).write(&run).unwrap();
    assert!(prints(here.path(), &["report", "run"]).contains("run/mixed/report.html"));
    let said = fails(here.path(), &["plot", "run"]);
    assert!(said.contains("no records to draw in run"), "its workload was looked at: {said}");
    let said = fails(here.path(), &["top", "run", "--once"]);
    assert!(said.contains("run is of several workloads; give the folder of one that was begun: run/mixed"), "{said}");
}
