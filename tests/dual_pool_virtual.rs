//! The target `dual_pool` on virtual engines: what it refuses, what it keeps, and that `--exact` can fail.

mod virtual_pair;

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use dualpool::config::{Arrivals, Settings};
use dualpool::harness::{Cancel, Outcome, Progress, Silent, dual_pool};
use dualpool::migrate::Fault;
use dualpool::report::load;

/// Throws the switch at the n-th arm of the measurement.
struct CancelAt<'a> {
    cancel: &'a Cancel,
    measuring: AtomicU32,
    step: u32,
}

impl Progress for CancelAt<'_> {
    fn phase(&self, name: &str, _steps: u32) {
        self.measuring.store(u32::from(name == "measurement"), Ordering::SeqCst);
    }

    fn step(&self, _what: &str) {
        if self.measuring.load(Ordering::SeqCst) > 0 && self.measuring.fetch_add(1, Ordering::SeqCst) == self.step {
            self.cancel.cancel();
        }
    }

    fn note(&self, _text: &str) {}
}

async fn run(settings: &Settings, fault: Fault, progress: &dyn Progress, cancel: &Cancel) -> anyhow::Result<Outcome> {
    let pair = virtual_pair::start(settings, fault);
    let outcome = dual_pool::run(&pair.controller, pair.environment, settings, vec![], progress, cancel).await;
    assert_eq!(pair.controller.settle(std::time::Duration::from_secs(10)).await, 0);
    pair.controller.shutdown().await;
    outcome
}

fn exact(dir: &std::path::Path) -> Settings {
    let mut settings = virtual_pair::settings(dir);
    settings.run.exact = true;
    settings.run.arms = ["shared_least_load", "full_disaggregation"].map(String::from).to_vec();
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_passes_when_every_token_is_equal() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = run(&exact(dir.path()), Fault::None, &Silent, &Cancel::new()).await.unwrap();
    let identical = &outcome.summary.identical_requests;
    assert_eq!(identical.keys().collect::<Vec<_>>(), ["full_disaggregation", "one_engine_control", "shared_least_load"]);
    assert!(identical.values().all(|i| i.same == i.compared && i.compared > 0), "{identical:?}");
    let moved = outcome.summary.arms.iter().find(|a| a.name == "full_disaggregation").unwrap();
    assert_eq!(moved.handoffs.count, moved.requests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_fails_when_one_block_of_a_hand_off_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let error = run(&exact(dir.path()), Fault::SkipBlock, &Silent, &Cancel::new()).await.unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("arm `full_disaggregation`, request 0") && message.contains("output token 1 is"), "{message}");
    assert!(dir.path().join("run/summary.json").exists(), "the artifacts are written all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_keeps_the_repetitions_that_were_finished() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    settings.run.arms = ["shared_least_load", "dedicated"].map(String::from).to_vec();
    let cancel = Cancel::new();
    // Two arms and a control: the fifth run is in the middle of the second repetition.
    let progress = CancelAt { cancel: &cancel, measuring: AtomicU32::new(0), step: 5 };
    let outcome = run(&settings, Fault::None, &progress, &cancel).await.unwrap();
    assert!(outcome.interrupted);
    assert_eq!(outcome.summary.repetitions, 1);
    let artifacts = load(&outcome.dir).unwrap();
    assert!(artifacts.run.interrupted);
    let mut runs: Vec<(&str, u32)> = artifacts.requests.iter().map(|r| (r.arm.as_str(), r.repetition)).collect();
    runs.dedup();
    let expected = [("shared_least_load", 0), ("dedicated", 0), ("shared_least_load_control", 0), ("shared_least_load_control", 1)];
    assert_eq!(runs, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_cancelled_before_the_measurement_still_leaves_a_whole_folder() {
    let dir = tempfile::tempdir().unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let outcome = run(&virtual_pair::settings(dir.path()), Fault::None, &Silent, &cancel).await.unwrap();
    assert!(outcome.interrupted && outcome.summary.arms.is_empty());
    assert!(load(&outcome.dir).unwrap().run.interrupted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_upfront_needs_no_rate() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    settings.workload.arrivals = Arrivals::AllUpfront;
    settings.run.arms = ["shared_least_load", "dual_pool"].map(String::from).to_vec();
    let outcome = run(&settings, Fault::None, &Silent, &Cancel::new()).await.unwrap();
    assert_eq!(outcome.summary.rate_rps, None);
    assert!(load(&outcome.dir).unwrap().requests.iter().all(|r| r.arrived_us.0 == 0));
}

#[test]
fn what_cannot_be_run_is_refused_before_an_engine_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut Settings)| {
        let mut settings = virtual_pair::settings(dir.path());
        change(&mut settings);
        dual_pool::prepare(&settings, vec![]).expect_err("these settings are to be refused").to_string()
    };
    assert!(refused(&|s| s.run.arms.push("magic".into())).contains("run.arms names `magic`; the arms are: shared_round_robin"));
    assert_eq!(refused(&|s| s.run.repetitions = 0), "run.repetitions is 0; give at least 1");
    assert!(refused(&|s| s.objectives.itl_ms = -5.0).contains("objectives.itl_ms is -5"));
    assert!(refused(&|s| s.workload.short_prompt_tokens = 0).contains("workload.short_prompt_tokens is 0"));
    assert!(refused(&|s| s.workload.long_prompt_tokens = 9000).contains("workload.long_prompt_tokens is 9000"));
    assert!(refused(&|s| s.run.bootstrap_resamples = 3).contains("run.bootstrap_resamples is 3"));
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(refused(&|s| s.run.out = dir.path().join("file/run")).contains("file/run"));
}
