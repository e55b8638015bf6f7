//! The target `dual_pool` on virtual engines: what it refuses, what it keeps, and that `--exact` can fail.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use dualpool_bench::targets::dual_pool;
use dualpool_bench::{Begin, Cancel, Outcome, Settings, environment};
use dualpool_engine::virtual_engine::VirtualEngines;
use dualpool_engine::{VirtualEngineSettings, VirtualKv};
use dualpool_fleet::{Progress, Silent};
use dualpool_kv::{EngineLinks, Transports};
use dualpool_machine::{DeviceKind, Gpus};
use dualpool_report::{load, recommend};
use dualpool_types::EngineId;
use dualpool_workload::{Arrivals, Mix};

use crate::support::faults::{Fault, Faults, FaultyTransport};
use crate::support::virtual_pair;

/// Does something at the n-th run of the measurement, counted from 1.
struct AtRun<F> {
    run: u32,
    seen: AtomicU32,
    measuring: AtomicBool,
    act: F,
}

impl<F: Fn() + Send + Sync> AtRun<F> {
    fn new(run: u32, act: F) -> AtRun<F> {
        AtRun { run, seen: AtomicU32::new(0), measuring: AtomicBool::new(false), act }
    }
}

impl<F: Fn() + Send + Sync> Progress for AtRun<F> {
    fn phase(&self, name: &str, _steps: u32) {
        self.measuring.store(name == "measurement", Ordering::SeqCst);
    }

    fn step(&self, _what: &str) {
        if self.measuring.load(Ordering::SeqCst) && self.seen.fetch_add(1, Ordering::SeqCst) + 1 == self.run {
            (self.act)();
        }
    }

    fn show(&self, _text: &str) {}

    fn note(&self, _text: &str) {}
}

async fn run(fleet: VirtualEngines, settings: &Settings, progress: &dyn Progress, cancel: &Cancel) -> anyhow::Result<Outcome> {
    let fleet = virtual_pair::fleet(fleet, settings);
    let environment = environment::gather(&fleet, settings);
    let outcome = dual_pool::run(&fleet, environment, settings, vec![], progress, cancel).await;
    let left = fleet.settle(Duration::from_secs(10)).await.unwrap();
    assert!(left.is_quiet(), "after the run: {left}");
    fleet.shutdown().await;
    Ok(outcome?)
}

async fn plain(settings: &Settings) -> anyhow::Result<Outcome> {
    run(virtual_pair::engines(), settings, &Silent, &Cancel::new()).await
}

/// The runs whose requests were kept, in order.
fn kept(dir: &Path) -> Vec<(String, u32)> {
    let mut runs: Vec<(String, u32)> = load(dir).unwrap().requests.into_iter().map(|r| (r.arm, r.repetition)).collect();
    runs.dedup();
    runs
}

fn exact(dir: &Path) -> Settings {
    let mut settings = virtual_pair::settings(dir);
    settings.run.exact = true;
    settings.run.arms = ["shared_least_load", "full_disaggregation"].map(String::from).to_vec();
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_passes_when_every_token_is_equal() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = plain(&exact(dir.path())).await.unwrap();
    let identical = &outcome.summary.identical_requests;
    assert_eq!(identical.keys().collect::<Vec<_>>(), ["full_disaggregation", "one_engine_control", "shared_least_load"]);
    assert!(identical.values().all(|i| i.same == i.compared && i.compared > 0), "{identical:?}");
    let moved = outcome.summary.arms.iter().find(|a| a.name == "full_disaggregation").unwrap();
    assert_eq!((moved.handoffs.count, moved.handoffs.recomputed), (moved.requests, 0));
    assert_eq!(outcome.summary.arrivals, "one_by_one");
    assert!(outcome.summary.comparisons.is_empty(), "an exact run compares tokens, not speed");
    let recommended = recommend(&load(&outcome.dir).unwrap());
    assert_eq!(recommended.arm, None);
    assert!(recommended.reasons[0].contains("tokens, not speed"), "{recommended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_fails_when_one_block_of_a_hand_off_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = virtual_pair::engines_with(Fault::SkipPart);
    let error = run(fleet, &exact(dir.path()), &Silent, &Cancel::new()).await.unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("arm `full_disaggregation`, request 0") && message.contains("output token 1 is"), "{message}");
    for file in ["summary.json", "report.html"] {
        assert!(dir.path().join("run").join(file).exists(), "{file} is written all the same");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_fails_when_kv_was_computed_again_instead_of_moved() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = virtual_pair::engines_with(Fault::FailCopy);
    let error = run(fleet, &exact(dir.path()), &Silent, &Cancel::new()).await.unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("arm `full_disaggregation`, request 0"), "{message}");
    assert!(message.contains("its KV was not moved but computed again"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_fail_are_counted_and_make_the_run_a_failed_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    settings.run.arms = ["shared_least_load", "full_disaggregation"].map(String::from).to_vec();
    let fleet = virtual_pair::engines_with(Fault::FailCopy);
    let outcome = run(fleet, &settings, &Silent, &Cancel::new()).await.unwrap();
    let arm = |name: &str| outcome.summary.arms.iter().find(|a| a.name == name).unwrap();
    let moved = arm("full_disaggregation");
    assert_eq!((moved.handoffs.count, moved.handoffs.recomputed), (0, moved.requests));
    assert_eq!(moved.handoffs.copy_ms_p50, None);
    assert_eq!(arm("shared_least_load").handoffs.recomputed, 0);
    assert_eq!(outcome.faults.len(), 1, "{:?}", outcome.faults);
    assert!(outcome.faults[0].starts_with("arm `full_disaggregation`: the KV of"), "{:?}", outcome.faults);
}

/// A run over engines whose KV is bytes in shared memory, moved by the real KV server.
async fn with_memory(dir: &Path, fault: Fault) -> Outcome {
    let mut settings = virtual_pair::settings(dir);
    settings.run.arms = ["shared_least_load", "full_disaggregation"].map(String::from).to_vec();
    settings.pools.device = DeviceKind::Virtual;
    settings.virtual_engines =
        VirtualEngineSettings { kv: VirtualKv::Shm, speed: virtual_pair::SPEED, ..VirtualEngineSettings::default() };
    settings.kv.verify = fault == Fault::None;
    let placements = dualpool_machine::choose(&settings.pools, &Gpus::default()).unwrap();
    let transport = Box::new(FaultyTransport::new(Transports::default(), Faults::new(fault)));
    let fleet = settings.fleet(&placements, EngineLinks::default());
    let fleet = dualpool_fleet::start_over(transport, fleet, Arc::new(Silent)).await.unwrap();
    let environment = environment::gather(&fleet, &settings);
    let outcome = dual_pool::run(&fleet, environment, &settings, vec![], &Silent, &Cancel::new()).await.unwrap();
    let left = fleet.settle(Duration::from_secs(10)).await.unwrap();
    assert!(left.is_quiet(), "after the run: {left}");
    fleet.shutdown().await;
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kv_that_is_really_there_is_moved_and_found_right() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = with_memory(dir.path(), Fault::None).await;
    let moved = outcome.summary.arms.iter().find(|a| a.name == "full_disaggregation").unwrap();
    assert_eq!((moved.handoffs.count, moved.handoffs.recomputed), (moved.requests, 0));
    assert!(moved.handoffs.bytes > 0 && outcome.faults.is_empty(), "{:?}", outcome.faults);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_was_not_moved_fails_its_request() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = with_memory(dir.path(), Fault::SkipPart).await;
    let requests = std::fs::read_to_string(outcome.dir.join("requests.jsonl")).unwrap();
    let wrong = requests.lines().filter(|line| line.contains("holds wrong bytes")).count();
    let moved = outcome.summary.arms.iter().find(|a| a.name == "full_disaggregation").unwrap();
    assert_eq!(wrong as u64, u64::from(moved.requests), "every hand-off lacks a block");
    assert!(!outcome.faults.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_keeps_the_repetitions_that_were_finished() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    settings.run.arms = ["shared_least_load", "dedicated"].map(String::from).to_vec();
    let cancel = Cancel::new();
    // Two arms and a control: the fifth run is in the middle of the second repetition.
    let progress = AtRun::new(5, || cancel.cancel());
    let outcome = run(virtual_pair::engines(), &settings, &progress, &cancel).await.unwrap();
    assert!(outcome.interrupted);
    assert_eq!(outcome.summary.repetitions, 1);
    assert!(load(&outcome.dir).unwrap().run.interrupted);
    let kept = kept(&outcome.dir);
    assert_eq!(kept.iter().map(|(_, repetition)| *repetition).collect::<Vec<_>>(), [0, 0, 0, 1]);
    let arms: BTreeSet<&str> = kept[..3].iter().map(|(arm, _)| arm.as_str()).collect();
    assert_eq!(arms, BTreeSet::from(["dedicated", "shared_least_load", "shared_least_load_control"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_in_which_the_machine_stood_still_is_made_again_and_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    settings.run.arms = ["shared_least_load", "dedicated"].map(String::from).to_vec();
    (settings.run.quick, settings.run.repetitions, settings.run.repeat_disturbed) = (false, 2, true);
    // All threads of the runtime sleep, so that nothing moves, several times: one of them is in the midst of the run.
    let stand_still = || {
        for _ in 0..2 {
            tokio::spawn(async {
                for _ in 0..3 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    std::thread::sleep(Duration::from_millis(1_300));
                }
            });
        }
    };
    // Two arms and a control: the fifth run is in the middle of the second try.
    let outcome = run(virtual_pair::engines(), &settings, &AtRun::new(5, stand_still), &Cancel::new()).await.unwrap();
    let artifacts = load(&outcome.dir).unwrap();
    let (run, disturbance) = (&artifacts.run, artifacts.run.disturbance.as_ref().unwrap());
    let stood_still = &disturbance.repetitions[1];
    assert!(stood_still.disturbed_by.iter().any(|signal| signal == "sample_gap_max_ms"), "{disturbance:?}");
    assert!(stood_still.signals.sample_gap_max_ms.unwrap() >= 1_000.0);
    assert_eq!(run.seeds[1], run.seeds[2], "made again with the same requests");
    assert!(artifacts.requests.iter().any(|request| request.repetition == 1), "its records stay");
    let undisturbed = disturbance.repetitions.iter().filter(|of| of.disturbed_by.is_empty()).count();
    assert_eq!(outcome.summary.repetitions as usize, undisturbed, "and are not counted");
    assert!(run.notes.iter().any(|note| note.contains("was disturbed, by") && note.contains("made again")), "{:?}", run.notes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_dies_ends_the_run_by_name_and_what_was_finished_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    settings.run.arms = ["shared_least_load", "dedicated"].map(String::from).to_vec();
    let fleet = virtual_pair::engines();
    let victim = fleet.handles[1].clone();
    let error = run(fleet, &settings, &AtRun::new(2, move || victim.kill()), &Cancel::new()).await.unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("`: engine-1 died"), "{message}");
    let folder = dir.path().join("run");
    assert!(message.contains(&folder.display().to_string()), "{message}");
    let kept = kept(&folder);
    assert!(kept.len() == 1 && !message.contains(&format!("arm `{}`:", kept[0].0)), "{message}: {kept:?}");
    assert_eq!(load(&folder).unwrap().summary.unwrap().repetitions, 0);
    assert!(folder.join("report.html").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_loses_its_kv_link_ends_the_run_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    settings.run.arms = ["shared_least_load", "dedicated"].map(String::from).to_vec();
    let fleet = virtual_pair::engines();
    let mover = fleet.mover.clone();
    let cut = move || {
        let mover = mover.clone();
        tokio::spawn(async move { mover.cut(EngineId(1)).await });
    };
    let error = run(fleet, &settings, &AtRun::new(2, cut), &Cancel::new()).await.unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("`: engine-1 lost its link to the KV mover"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_cancelled_before_the_measurement_still_leaves_a_whole_folder() {
    let dir = tempfile::tempdir().unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let outcome = run(virtual_pair::engines(), &virtual_pair::settings(dir.path()), &Silent, &cancel).await.unwrap();
    assert!(outcome.interrupted && outcome.summary.arms.is_empty());
    assert!(load(&outcome.dir).unwrap().run.interrupted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_upfront_needs_no_rate() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    settings.workload.arrivals = Arrivals::AllUpfront;
    settings.run.arms = ["shared_least_load", "dual_pool"].map(String::from).to_vec();
    let outcome = plain(&settings).await.unwrap();
    assert_eq!(outcome.summary.rate_rps, None);
    assert!(load(&outcome.dir).unwrap().requests.iter().all(|r| r.arrived_us.0 == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arms_that_were_not_searched_for_run_as_known_points_and_equal_ones_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    settings.run.search_budget_s = 1;
    settings.run.arms = ["shared_tuned", "dual_pool", "best_found"].map(String::from).to_vec();
    // Trials of half a minute each.
    settings.workload.rate = 0.5;
    settings.workload.decode_requests = 6;
    settings.workload.continue_requests = 6;
    settings.workload.prefill_burst = 2;
    settings.workload.arrivals = Arrivals::AllUpfront;
    let outcome = plain(&settings).await.unwrap();
    let run = load(&outcome.dir).unwrap().run;
    assert_eq!(run.known_points, ["shared_tuned", "dual_pool", "best_found"]);
    assert!(run.search.iter().all(|trial| trial.requests == 0), "no trial was made");
    let chosen = |arm: &str| run.search.iter().find(|t| t.chosen_for.as_deref().is_some_and(|c| c.contains(arm))).unwrap();
    assert_eq!(chosen("best_found").arrangement.name, "balanced 224/64");
    assert_eq!(run.stands_for.into_iter().collect::<Vec<_>>(), [("shared_tuned".to_string(), vec!["best_found".to_string()])]);
    let arms: Vec<&str> = outcome.summary.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(arms, ["shared_tuned", "dual_pool", "shared_tuned_control"], "a control is never merged");
    for said in ["run for shared_tuned as balanced 224/64, dual_pool as dual_pool prefill", "shared_tuned stands for both"] {
        assert!(run.notes.iter().any(|note| note.contains(said)), "{said}: {:?}", run.notes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_have_as_many_requests_in_trials_as_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    (settings.run.quick, settings.run.repetitions, settings.run.search_budget_s) = (false, 1, 10);
    settings.run.arms = ["shared_tuned", "dual_pool"].map(String::from).to_vec();
    let run = load(&plain(&settings).await.unwrap().dir).unwrap().run;
    let tried = |split: bool| {
        let of_family = run.search.iter().filter(|trial| trial.arrangement.policy.needs_pools() == split);
        of_family.map(|trial| trial.requests).sum::<u32>()
    };
    assert_eq!(tried(false), tried(true), "{:?}", run.notes);
    let (low, high) = (run.saturation_low_rps.unwrap(), run.saturation_high_rps.unwrap());
    assert!((low..=high).contains(&run.saturation_rps.unwrap()), "{low} {high}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mix_that_changes_offers_each_mix_the_same_share_of_what_it_saturates_at() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    settings.workload.mix = Mix::Changing;
    settings.run.arms = ["shared_least_load", "auto"].map(String::from).to_vec();
    let outcome = plain(&settings).await.unwrap();
    let run = load(&outcome.dir).unwrap().run;
    let names: Vec<&str> = run.mixes.iter().map(|mix| mix.name.as_str()).collect();
    assert_eq!((outcome.summary.mix.as_str(), &names[..]), ("changing", &["balanced", "long_context", "decode_heavy"][..]));
    let requests: u32 = run.mixes.iter().map(|mix| mix.requests).sum();
    assert!(outcome.summary.arms.iter().all(|arm| arm.requests == requests * outcome.summary.repetitions));
    let rates: Vec<f64> = run.mixes.iter().map(|mix| mix.saturation_rps).collect();
    let (least, most) = (rates.iter().copied().fold(f64::INFINITY, f64::min), rates.iter().copied().fold(0.0, f64::max));
    assert!((least..=most).contains(&run.saturation_rps.unwrap()), "{:?} of {rates:?}", run.saturation_rps);
}

#[test]
fn what_cannot_be_run_is_refused_before_an_engine_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut Settings)| {
        let mut settings = virtual_pair::settings(dir.path());
        change(&mut settings);
        dual_pool::prepare(&settings, &[], Begin::Anew).expect_err("these settings are to be refused").to_string()
    };
    assert!(refused(&|s| s.run.arms.push("magic".into())).contains("`run.arms`"));
    assert!(refused(&|s| s.run.budget_s = 0).contains("`run.budget_s` is 0"));
    assert!(refused(&|s| s.objectives.itl_ms = -5.0).contains("`objectives.itl_ms` is -5"));
    let deep = |s: &mut Settings| (s.workload.mix, s.engine.max_model_len) = (Mix::LongContext, 2048);
    assert!(refused(&deep).contains("with `long_context` a prompt has up to 4096 tokens"));
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(refused(&|s| s.run.out = dir.path().join("file/run")).contains("file/run"));
}
