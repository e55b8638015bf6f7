//! The program built without Python: `cargo test --no-default-features --test without_python`.
#![cfg(not(feature = "python"))]

#[path = "support/program.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod program;

use std::process::Output;

use tempfile::TempDir;

use program::text;

/// Runs the program in an empty folder, where there is no environment to find.
fn dualpool(folder: &TempDir, args: &[&str]) -> Output {
    program::dualpool(folder, args).output().unwrap()
}

#[test]
fn it_asks_the_loader_for_no_libpython() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_dualpool")).unwrap();
    let names = |library: &str| program.windows(library.len()).any(|window| window == library.as_bytes());
    // The names of needed libraries stand in the file as they are.
    assert!(names("libc.so.6"));
    assert!(!names("libpython3"));
}

#[test]
fn virtual_engines_reports_settings_and_targets_work() {
    let folder = tempfile::tempdir().unwrap();
    let small = ["--rate", "8", "--prefill-burst", "1", "--decode-requests", "4", "--continue-requests", "0", "--repetitions", "1"];
    let run = ["run", "dual_pool", "--device", "virtual", "--arms", "shared_round_robin,full_disaggregation", "--out", "run"];
    for args in [&[&run[..], &small].concat()[..], &["report", "run"], &["list-targets"], &["config"]] {
        let output = dualpool(&folder, args);
        assert!(output.status.success() && !output.stdout.is_empty(), "{args:?}: {}", text(&output.stderr));
    }
    let doctor = dualpool(&folder, &["doctor", "--device", "virtual"]);
    assert!(text(&doctor.stdout).contains("not needed for virtual engines"), "{}", text(&doctor.stdout));
}

#[test]
fn what_needs_python_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let output = dualpool(&folder, &["run", "dual_pool", "--device", "cpu", "--out", "run"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("built without Python") && said.contains("--device virtual"), "{said}");
    assert!(!folder.path().join("run").exists());
}
