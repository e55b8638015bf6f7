//! The program over real engines, from outside.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::pair;

/// From Ctrl-C to the program's end.
const END_MAX: Duration = Duration::from_secs(30);

/// Engines of a run that was interrupted in its measurement are gone, and what was finished is in its folder. The run knows what copies
/// cost between its engines from a calibration made just before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_engines_and_keeps_finished_work() {
    let Some(_cores) = pair::cores().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let calibration = folder.path().join("calibration.json");
    let calibrated = Command::new(env!("CARGO_BIN_EXE_dualpool"))
        .args(["calibrate", "--quick", "--device", "cpu"])
        .args(["--calibration".as_ref(), calibration.as_os_str()])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(calibrated.status.success(), "{}", String::from_utf8_lossy(&calibrated.stderr));
    let mut run = Command::new(env!("CARGO_BIN_EXE_dualpool"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["run", "dual_pool", "--quick", "--device", "cpu", "--arms", "shared_least_load,full_disaggregation"])
        .args(["--model".as_ref(), pair::model("tiny-llama").as_os_str(), "--out".as_ref(), out.as_os_str()])
        .args(["--calibration".as_ref(), calibration.as_os_str()])
        .args(["--log", "warn,dualpool_fleet=debug"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = run.id();
    let (mut engines, mut told) = (Vec::new(), BTreeSet::new());
    for line in BufReader::new(run.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("what a copy costs by the calibration") {
            told.extend(["from=engine-0 to=engine-1", "from=engine-1 to=engine-0"].into_iter().filter(|pair| line.contains(pair)));
        }
        // The second run of the measurement: the first one is finished.
        if line.starts_with("measurement 2/") {
            engines = descendants(pid);
            assert!(engines.len() >= 2, "no engine processes under {pid}: {engines:?}");
            // SAFETY: a plain kill(2) of a process that this test started.
            assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGINT) }, 0);
        }
    }
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = run.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < END_MAX, "the program did not end on Ctrl-C");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(status.code(), Some(130));
    assert!(!engines.is_empty(), "the measurement never began");
    let begun = Instant::now();
    while !pair::gone(&engines) {
        assert!(begun.elapsed() < END_MAX, "processes {engines:?} outlived the program");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(told.len(), 2, "the router was told of {told:?}");
    let kept = dualpool_report::load(&out).unwrap();
    assert!(kept.run.notes.iter().any(|note| note.contains("known for 2 of 2 ordered pairs")), "{:?}", kept.run.notes);
    assert!(kept.run.interrupted);
    assert!(!kept.requests.is_empty(), "the finished run was not kept");
}

/// All processes below this one.
fn descendants(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_threads = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let listed: Vec<u32> = std::iter::once(children)
        .chain(of_threads)
        .flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<u32>>())
        .collect();
    let mut all: Vec<u32> = listed.iter().copied().chain(listed.iter().flat_map(|&child| descendants(child))).collect();
    all.sort_unstable();
    all.dedup();
    all
}
