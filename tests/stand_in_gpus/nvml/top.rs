//! `dualpool top --once`, the program.
use crate::support::fakes::FakeNvml;
use crate::support::program;

fn top(fake: Option<&FakeNvml>, args: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program::dualpool(&folder, &[&["top"], args].concat());
    let others = std::env::var_os("LD_LIBRARY_PATH");
    let path = fake.map(|fake| fake.folder().to_path_buf()).into_iter();
    let path = path.chain(others.iter().flat_map(std::env::split_paths));
    command.env("LD_LIBRARY_PATH", std::env::join_paths(path).unwrap());
    let output = command.output().unwrap();
    (output.status.code(), program::text(&output.stdout), program::text(&output.stderr))
}

#[test]
fn one_frame_shows_this_machines_gpus() {
    let fake = FakeNvml::new(
        r#"{"gpus": [
            {"phases": [{"load": "busy", "processes": [{"pid": 41, "mib": 2048}]}]}, {"phases": [{"load": "throttled"}]}, {"lost_after": 0}
        ]}"#,
    );
    let (code, out, error) = top(Some(&fake), &["--once"]);
    assert_eq!(code, Some(0), "{error}");
    let lines: Vec<&str> = out.lines().collect();
    let after = |name: &str| {
        lines.iter().position(|line| line.starts_with(name)).map(|at| (lines[at], lines.get(at + 1).copied().unwrap_or_default()))
    };
    let (busy, about) = after("GPU 0").unwrap_or_else(|| panic!("{out}"));
    assert!(busy.contains(" 87 %") && busy.contains("540 W") && about.contains("pid 41 2.00 GiB"), "{out}");
    let (_, about) = after("GPU 1").unwrap();
    assert!(about.contains("SLOWED by hardware slowdown, heat (hardware)"), "{out}");
    assert!(after("GPU 2").unwrap().0.contains("LOST"), "{out}");
    assert!(out.contains("no run under artifacts/"), "{out}");
}

#[test]
fn a_driver_that_does_not_run_is_no_failure() {
    let (code, out, error) = top(Some(&FakeNvml::new(r#"{"init_error": 9}"#)), &[]);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("no GPUs: ") && out.contains("not running"), "{out}");
}

#[test]
fn a_folder_that_is_no_run_is_refused() {
    let (code, out, error) = top(None, &["--once", "nowhere"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(error.contains("nowhere") && error.contains("samples.jsonl"), "{error}");
}
