//! `scripts/gpu_check` where there is no GPU, and what it makes of findings.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::fake_cuda::FakeCuda;
use crate::support::program::{root, text};

const NO_GPU: i32 = 2;
const BAD_USAGE: i32 = 64;

/// The program that the script runs, built as this test was: with the features that the whole workspace asks for.
fn program() -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    let status = build.args(["build", "--quiet", "--workspace", "--example", "gpu_check"]).current_dir(root()).status();
    assert!(status.unwrap().success(), "the example gpu_check does not build");
    // Beside this test's own program: target/<profile>/deps.
    let profile = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_path_buf();
    profile.join("examples/gpu_check")
}

fn script(args: &[&Path]) -> Output {
    let mut command = Command::new(root().join(".venv/bin/python"));
    command.arg(root().join("scripts/gpu_check")).args(args).arg("--skip-engines");
    // Where there are GPUs, this hides them.
    command.env("CUDA_VISIBLE_DEVICES", "").output().unwrap()
}

#[test]
fn without_a_gpu_it_says_so_with_a_code_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("gpu_check.json");
    let output = script(&[Path::new("--program"), &program(), Path::new("--out"), &out]);
    assert_eq!(output.status.code(), Some(NO_GPU), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("no GPU, nothing was checked"), "{}", text(&output.stdout));
    // The reason: no driver, or no GPU shown.
    assert!(text(&output.stderr).starts_with("no GPU: "), "{}", text(&output.stderr));
    assert!(!out.exists(), "figures from a machine without a GPU");
}

#[test]
fn a_wrong_copy_fails_the_check_and_a_missed_target_does_not() {
    let row = |rest: &str| format!(r#"{{"group": "copies", "what": "w", {rest}}}"#);
    let missed = row(r#""kind": "figure", "value": 0.5, "unit": "", "target": {"at_least": 0.9}, "met": false"#);
    let wrong = row(r#""kind": "correct", "right": false, "detail": "byte 3 differs""#);
    for (rows, code, shown) in [(missed.clone(), 0, "target at least 0.9: MISSED"), (wrong, 1, "WRONG  (byte 3 differs)")] {
        let folder = tempfile::tempdir().unwrap();
        // Stands in for the program on a machine with a GPU.
        let stand_in = folder.path().join("program");
        let findings = format!(
            r#"{{"gpus": [], "driver": "13.0", "kernels": "built in", "grid_blocks_default": 16, "seed": 1, "rows": [{rows}]}}"#
        );
        std::fs::write(&stand_in, format!("#!/bin/sh\ncat << 'EOF'\n{findings}\nEOF\n")).unwrap();
        std::fs::set_permissions(&stand_in, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let out = folder.path().join("deeper/gpu_check.json");
        let output = script(&[Path::new("--program"), &stand_in, Path::new("--out"), &out]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
        assert!(stdout.contains(shown), "{stdout}");
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
        assert_eq!(written["rows"][0]["what"], "w");
    }
}

#[test]
fn bad_usage_is_not_taken_for_a_missing_gpu() {
    let output = script(&[Path::new("--no-such-flag")]);
    assert_eq!(output.status.code(), Some(BAD_USAGE));
}

/// The program on virtual GPUs, which do what the kernels should: all around the kernels is the real thing. Few rounds, no figures.
fn on_virtual_gpus(script: &str) -> Output {
    let (cuda, mut command) = (FakeCuda::new(), Command::new(program()));
    cuda.for_command(&mut command, script);
    command.arg("--venv").arg(root().join(".venv")).args(["--rounds", "8", "--no-speed"]).output().unwrap()
}

#[test]
fn all_copies_are_right_on_virtual_gpus() {
    // Work takes its time, so that a missing wait shows.
    let output = on_virtual_gpus(r#"{"machine": "gpu-check", "gpus": 2, "delay_us": 300}"#);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = findings["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6, "{findings:#}");
    for row in rows {
        assert_eq!((&row["kind"], &row["right"]), (&"correct".into(), &true.into()), "{row}");
    }
}

#[test]
fn without_peer_access_that_check_is_left_out_with_the_reason() {
    let output = on_virtual_gpus(r#"{"machine": "gpu-check-apart", "gpus": 2, "peers": false}"#);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let left_out: Vec<_> = findings["rows"].as_array().unwrap().iter().filter(|row| row["kind"] == "not_run").collect();
    assert_eq!(left_out.len(), 1, "{findings:#}");
    assert!(left_out[0]["why"].as_str().unwrap().contains("no peer access"), "{findings:#}");
}

#[test]
fn a_copy_that_is_lost_is_not_silent() {
    let output = on_virtual_gpus(r#"{"machine": "gpu-check-lost", "gpus": 1, "faults": [{"copy": 40, "does": "break"}]}"#);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(findings["rows"].as_array().unwrap().iter().any(|row| row["right"] == false), "{findings:#}");
}
