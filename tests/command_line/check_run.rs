//! `scripts/check_run.py`: that it comes to the same figures and verdicts as the program, and that it sees where it does not.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::program::{dualpool, root, text};

fn check(run: &Path) -> Output {
    Command::new(root().join(".venv/bin/python")).arg(root().join("scripts/check_run.py")).arg(run).output().unwrap()
}

/// The script agrees with the summary, or with those of all workloads.
#[track_caller]
pub(super) fn agrees(run: &Path) {
    let output = check(run);
    let said = text(&output.stdout);
    assert!(output.status.success() && said.ends_with(" verdicts agree\n"), "{said}{}", text(&output.stderr));
}

/// The script finds this, and ends as it does when anything is wrong.
#[track_caller]
fn finds(run: &Path, line: &str) {
    let output = check(run);
    let said = text(&output.stdout);
    assert!(output.status.code() == Some(1) && output.stderr.is_empty(), "{said}{}", text(&output.stderr));
    assert!(said.lines().any(|said| said.contains(line)), "`{line}` is missing in: {said}");
}

/// A run of `dual_pool` in the folder `run`: so fast that it takes seconds, yet long enough for verdicts.
fn measure(folder: &Path, more: &[&str]) {
    let args = ["run", "dual_pool", "--device", "virtual", "--set", "virtual.speed=20", "--out", "run", "--rate", "160"];
    let arms = ["--arms", "shared_round_robin,full_disaggregation"];
    let requests = ["--prefill-burst", "2", "--decode-requests", "5", "--continue-requests", "5"];
    let output = dualpool(folder, &[&args[..], &arms, &requests, more].concat()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Changes one value of a run's summary, checks it, and puts the value back.
#[track_caller]
fn changed(run: &Path, pointer: &str, value: Value, line: &str) {
    let path = run.join("summary.json");
    let before = fs::read_to_string(&path).unwrap();
    let mut summary: Value = serde_json::from_str(&before).unwrap();
    *summary.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    fs::write(&path, summary.to_string()).unwrap();
    finds(run, line);
    fs::write(&path, before).unwrap();
}

#[test]
fn a_run_is_recomputed_and_whatever_was_changed_in_its_summary_is_found() {
    let folder = tempfile::tempdir().unwrap();
    measure(folder.path(), &["--repetitions", "7"]);
    let run = folder.path().join("run");
    agrees(&run);

    let summary: Value = serde_json::from_str(&fs::read_to_string(run.join("summary.json")).unwrap()).unwrap();
    let p95 = summary["arms"][1]["ttft_ms"]["short"]["p95"].as_f64().unwrap();
    changed(&run, "/arms/1/ttft_ms/short/p95", (p95 * 1.000_001).into(), "arm full_disaggregation ttft_ms.short.p95: summary ");
    changed(&run, "/arms/0/engines/1/requests", 1.into(), "arm shared_round_robin engine 1 requests: summary 1, recomputed ");
    changed(&run, "/identical_requests/full_disaggregation/same", 0.into(), "identical_requests.full_disaggregation.same: ");
    let comparison = &summary["comparisons"][0];
    let verdict = if comparison["verdict"] == "worse" { "better" } else { "worse" };
    let named = format!(
        "comparison full_disaggregation to shared_round_robin {} verdict: summary {verdict}, ",
        comparison["metric"].as_str().unwrap()
    );
    changed(&run, "/comparisons/0/verdict", verdict.into(), &named);
    changed(&run, "/comparisons/0/planned", (comparison["planned"] == false).into(), "planned: ");
    changed(&run, "/held_blocks_after", serde_json::json!({"new": 1}), "held_blocks_after.new: summary 1, and this script");

    let records = run.join("requests.jsonl");
    let whole = fs::read_to_string(&records).unwrap();
    fs::write(&records, whole.replacen("\"token_us\"", "\"other\"", 1)).unwrap();
    finds(&run, "requests.jsonl line 1: there is no `token_us`");
    fs::write(&records, whole.replacen("\"arrived_us\":", "\"arrived_us\":\"\",\"before\":", 1)).unwrap();
    finds(&run, "a value is not what docs/schemas allows");
    fs::remove_file(&records).unwrap();
    finds(&run, "requests.jsonl cannot be read");
}

#[test]
fn failed_requests_are_recomputed() {
    let folder = tempfile::tempdir().unwrap();
    measure(folder.path(), &["--repetitions", "6", "--set", "router.max_in_flight=2"]);
    let run = folder.path().join("run");
    let summary: Value = serde_json::from_str(&fs::read_to_string(run.join("summary.json")).unwrap()).unwrap();
    assert!(summary["arms"].as_array().unwrap().iter().any(|arm| arm["errors"] != serde_json::json!([])), "no request failed");
    agrees(&run);
}

#[test]
fn it_wants_a_run() {
    let usage = Command::new(root().join(".venv/bin/python")).arg(root().join("scripts/check_run.py")).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    finds(Path::new("nowhere"), "nowhere/run.json cannot be read");
}
