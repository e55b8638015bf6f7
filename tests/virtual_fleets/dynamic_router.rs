//! The target `dynamic_router` on virtual engines: every workload leaves what it promises, and what cannot be run is refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use dualpool_bench::targets::dynamic_router;
use dualpool_bench::{Begin, Cancel, Outcome, Settings, WorkloadKind, environment, stats};
use dualpool_fleet::Silent;
use dualpool_report::{Overview, load, load_workloads, settle};
use dualpool_types::{PolicyKind, Role, Wave};

use crate::support::{schemas, virtual_pair};

/// Small enough for seconds, large enough for intervals.
fn settings(dir: &Path, kinds: &[WorkloadKind]) -> Settings {
    let mut settings = virtual_pair::settings(dir);
    settings.run.quick = false;
    settings.run.repetitions = 2;
    settings.run.expectations = dir.join("expectations");
    settings.dynamic_router.workloads = kinds.to_vec();
    settings.dynamic_router.requests = 24;
    settings.dynamic_router.rounds = 1;
    settings.dynamic_router.sessions = 6;
    settings
}

async fn run(settings: &Settings, cancel: &Cancel) -> anyhow::Result<Vec<Outcome>> {
    let fleet = virtual_pair::fleet(virtual_pair::engines(), settings);
    let environment = environment::gather(&fleet, settings);
    let outcomes = dynamic_router::run(&fleet, environment, settings, vec![], &Silent, cancel).await;
    let left = fleet.settle(Duration::from_secs(10)).await.unwrap();
    assert!(left.is_quiet(), "after the run: {left}");
    fleet.shutdown().await;
    Ok(outcomes?)
}

async fn one(settings: &Settings) -> Outcome {
    let mut outcomes = run(settings, &Cancel::new()).await.unwrap();
    assert_eq!(outcomes.len(), 1);
    outcomes.pop().unwrap()
}

/// What holds for every workload.
#[track_caller]
fn sound(outcome: &Outcome) {
    let artifacts = load(&outcome.dir).unwrap();
    let text = fs::read_to_string(outcome.dir.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    let fit = schemas::all_fit(&outcome.dir);
    assert!(
        ["run.json", "requests.jsonl", "samples.jsonl", "summary.json"].iter().all(|name| fit.iter().any(|f| f == name)),
        "{fit:?}"
    );
    assert_eq!(serde_json::to_value(stats::rebuild(&outcome.dir).unwrap()).unwrap(), summary, "it follows from the records");
    assert_eq!((outcome.faults.len(), outcome.summary.held_blocks_after, outcome.summary.repetitions), (0, 0, 2));

    let names: Vec<&str> = outcome.summary.arms.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["round_robin", "least_load", "dynamic_router", "round_robin_control"]);
    for arm in &outcome.summary.arms {
        let routing = arm.routing.as_ref().unwrap();
        assert!(routing.queue_spread_mean.is_some() && routing.engines.len() == 2, "{}", arm.name);
        let prompts: u64 = artifacts.requests.iter().filter(|r| r.arm == arm.name).map(|r| u64::from(r.prompt_tokens)).sum();
        assert_eq!(routing.engines.iter().map(|e| e.prompt_tokens).sum::<u64>(), prompts, "{}", arm.name);
    }
    for arm in &artifacts.run.arms {
        assert!(arm.roles.iter().all(|role| *role == Role::Shared), "{}", arm.name);
        assert_eq!(arm.tunings, artifacts.run.arms[0].tunings, "{}: engines are alike in all arms", arm.name);
    }
    for (arm, identical) in &outcome.summary.identical_requests {
        assert_eq!(identical.same, identical.compared, "{arm}: virtual engines are deterministic");
    }
    let pairs: BTreeSet<(&str, &str)> =
        outcome.summary.comparisons.iter().map(|c| (c.baseline.as_str(), c.candidate.as_str())).collect();
    let against = [
        ("least_load", "dynamic_router"),
        ("round_robin", "dynamic_router"),
        ("round_robin", "round_robin_control"),
        ("round_robin", "least_load"),
    ];
    assert_eq!(pairs, BTreeSet::from(against));
    assert!(outcome.dir.join("report.html").exists());
    let printed = dualpool_report::print(&artifacts, 120);
    assert!(printed.contains("spread") && printed.contains("cached"), "{printed}");
    assert!(settle::table(&artifacts).contains("dynamic_router"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_the_budget_is_left_out_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path(), &[WorkloadKind::Mixed]);
    (settings.run.repetitions, settings.run.budget_s) = (0, 15);
    // Four arms for 3 s in each of six repetitions, and half of that still is too much.
    settings.workload.rate = 8.0;
    let outcome = one(&settings).await;
    let run = load(&outcome.dir).unwrap().run;
    assert_eq!(run.arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>(), ["least_load", "dynamic_router"]);
    let left = run.repetition.unwrap().requests;
    assert!((12..24).contains(&left), "{left}");
    assert!(outcome.summary.arms.iter().all(|arm| arm.requests == left * outcome.summary.repetitions));
    for said in ["so these were left out: round_robin, round_robin_control", "There is no time for 24 requests in a repetition"] {
        assert!(run.notes.iter().any(|note| note.contains(said)), "{said}: {:?}", run.notes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_three_synthetic_workloads_are_measured_in_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let outcomes = run(&settings(dir.path(), &[]), &Cancel::new()).await.unwrap();
    let mixes: Vec<&str> = outcomes.iter().map(|o| o.summary.mix.as_str()).collect();
    assert_eq!(mixes, ["mixed", "two_wave_imbalance", "prefix_sessions"]);
    outcomes.iter().for_each(sound);

    let [mixed, waves, sessions] = &outcomes[..] else { panic!("three workloads") };
    assert!(mixed.summary.rate_rps.is_some() && sessions.summary.rate_rps.is_some() && waves.summary.rate_rps.is_none());
    assert_eq!([mixed, waves, sessions].map(|o| o.summary.arrivals.as_str()), ["poisson", "planned", "poisson"]);

    // Waves and turns are in the records, so that a reader can compute each figure again.
    let records = load(&waves.dir).unwrap().requests;
    assert!(records.iter().all(|r| r.wave.is_some() && r.turn.is_none()));
    for arm in &waves.summary.arms {
        let mut ttfts: Vec<f64> = records
            .iter()
            .filter(|r| r.arm == arm.name && r.wave == Some(Wave::Foreground))
            .map(|r| (r.token_us[0] - r.arrived_us).as_ms())
            .collect();
        ttfts.sort_by(f64::total_cmp);
        let p95 = ttfts[(0.95 * ttfts.len() as f64).ceil() as usize - 1];
        assert_eq!(arm.ttft_ms.foreground.unwrap().p95, Some(p95), "{}", arm.name);
        assert!(arm.ttft_ms.background.unwrap().p50.is_some());
    }
    let compared = |outcome: &Outcome| outcome.summary.comparisons.iter().any(|c| c.metric == "ttft_ms.foreground.p95");
    assert!(compared(waves) && !compared(mixed) && !compared(sessions));
    let records = load(&sessions.dir).unwrap().requests;
    assert!(records.iter().all(|r| r.turn.is_some() && r.wave.is_none()));
    assert!(sessions.summary.arms.iter().all(|a| a.routing.as_ref().unwrap().same_engine_share.is_some()));

    let folder = dir.path().join("run");
    assert_eq!(Overview::read(&folder).unwrap().unwrap().workloads, mixes);
    assert_eq!(load_workloads(&folder).unwrap().len(), 3);
    assert_eq!(schemas::all_fit(&folder), ["workloads.json"]);
}

/// Round robin deals the long prompts to one engine, and half of the foreground with them; nothing that looks at load does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_two_waves_catch_who_counts_requests() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = one(&settings(dir.path(), &[WorkloadKind::TwoWaveImbalance])).await;
    let prompts = |name: &str| {
        let arm = outcome.summary.arms.iter().find(|a| a.name == name).unwrap();
        let mut prompts: Vec<u64> = arm.routing.as_ref().unwrap().engines.iter().map(|e| e.prompt_tokens).collect();
        prompts.sort_unstable();
        prompts[0] as f64 / prompts[1] as f64
    };
    assert!(prompts("round_robin") < 0.5, "one engine has all long prompts: {}", prompts("round_robin"));
    assert!(prompts("dynamic_router") > prompts("round_robin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_replayed_and_its_rows_are_accounted_for() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace.jsonl");
    let line = |i: u32| format!("{{\"at_ms\": {}, \"prompt_tokens\": {}, \"output_tokens\": 4}}\n", i * 100, 40 + i * 17);
    fs::write(&trace, (0..30).map(line).chain(["not a request\n".to_string()]).collect::<String>()).unwrap();
    let mut settings = settings(dir.path(), &[]);
    settings.dynamic_router.trace = trace;
    settings.dynamic_router.replay_speed = 10.0;
    settings.dynamic_router.limit = 25;
    let outcome = one(&settings).await;
    sound(&outcome);
    assert_eq!((outcome.summary.mix.as_str(), outcome.summary.arrivals.as_str()), ("trace", "recorded"));
    let artifacts = load(&outcome.dir).unwrap();
    let first: Vec<_> = artifacts.requests.iter().filter(|r| r.arm == "least_load" && r.repetition == 0).collect();
    assert_eq!(first.len(), 25);
    assert_eq!((first[24].arrived_us.0, first[24].prompt_tokens), (240_000, 40 + 24 * 17));
    assert!(artifacts.run.notes.iter().any(|note| note.contains("25 requests")), "{:?}", artifacts.run.notes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_ratios_are_what_the_next_run_is_held_against() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = settings(dir.path(), &[WorkloadKind::TwoWaveImbalance]);
    first.run.update_expectations = true;
    let accepted = one(&first).await;
    assert_eq!(accepted.summary.expectations, None, "there was nothing yet");

    let mut second = settings(dir.path(), &[WorkloadKind::TwoWaveImbalance]);
    second.run.out = dir.path().join("second");
    let held = one(&second).await.summary.expectations.expect("something was accepted");
    assert!(held.compared > 10 && held.file.contains("virtual-"), "{held:?}");

    // What was accepted is better than anything that can be: this run is behind.
    let file = fs::read_dir(dir.path().join("expectations")).unwrap().next().unwrap().unwrap().path();
    let mut book: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    for ratio in book["accepted"][0]["ratios"].as_array_mut().unwrap() {
        if ratio["metric"] == "ttft_ms.overall.p50" {
            (ratio["ratio"], ratio["ci_low"], ratio["ci_high"]) = (1e-6.into(), 0.5e-6.into(), 2e-6.into());
        }
    }
    fs::write(&file, book.to_string()).unwrap();
    let mut third = settings(dir.path(), &[WorkloadKind::TwoWaveImbalance]);
    third.run.out = dir.path().join("third");
    let third = one(&third).await;
    let behind = &third.summary.expectations.as_ref().unwrap().behind;
    assert_eq!(behind.iter().filter(|b| b.metric == "ttft_ms.overall.p50").count(), 2, "{behind:?}");
    assert!(dualpool_report::print(&load(&third.dir).unwrap(), 100).contains("BEHIND: TTFT p50 of dynamic_router against"));
    let summary = serde_json::to_value(&third.summary).unwrap();
    assert_eq!(schemas::violations("summary.json", &summary), Vec::<String>::new());
    assert_eq!(serde_json::to_value(stats::rebuild(&third.dir).unwrap()).unwrap(), summary);

    // Under other settings ratios mean something else.
    let mut other = settings(dir.path(), &[WorkloadKind::TwoWaveImbalance]);
    other.run.out = dir.path().join("other");
    other.router.policy = PolicyKind::LeastLoad;
    assert_eq!(one(&other).await.summary.expectations, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_compares_tokens_one_request_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path(), &[WorkloadKind::Mixed]);
    settings.run.exact = true;
    let outcome = one(&settings).await;
    assert_eq!((outcome.summary.arrivals.as_str(), outcome.summary.comparisons.len()), ("one_by_one", 0));
    assert!(outcome.summary.identical_requests.values().all(|i| i.same == i.compared && i.compared > 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_begun_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let outcomes = run(&settings(dir.path(), &[]), &cancel).await.unwrap();
    assert_eq!(outcomes.len(), 1);
    assert!(outcomes[0].interrupted);
    assert_eq!(load_workloads(&dir.path().join("run")).unwrap().len(), 1);

    let never = dir.path().join("never");
    let mut settings = settings(dir.path(), &[]);
    settings.run.out = never.clone();
    dynamic_router::prepare(&settings, &[], Begin::Anew).unwrap().abandon();
    assert!(!never.exists());
}

#[test]
fn what_cannot_be_run_is_refused_before_an_engine_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings(dir.path(), &[]);
        change(&mut settings);
        let error = dynamic_router::prepare(&settings, &[], Begin::Anew).expect_err("these settings are to be refused");
        assert!(!dir.path().join("run").exists(), "nothing is left of it");
        format!("{error:#}")
    };
    assert!(refused(&|s| s.dynamic_router.arms.push("magic".into())).contains("`dynamic_router.arms`"));
    assert!(refused(&|s| s.dynamic_router.arms.push("dual_pool".into())).contains("`dynamic_router.arms`"));
    assert!(refused(&|s| s.router.policy = PolicyKind::DualPool).contains("`router.policy`"));
    assert!(refused(&|s| s.run.arms = vec!["auto".into()]).contains("use --policies"));
    assert!(refused(&|s| s.dynamic_router.workloads = vec![WorkloadKind::Trace]).contains("`dynamic_router.trace`"));
    assert!(refused(&|s| s.dynamic_router.trace = "/nonexistent".into()).contains("cannot open the trace"));
    let short = |s: &mut Settings| (s.engine.max_model_len, s.engine.max_num_batched_tokens) = (1500, 1024);
    assert!(refused(&short).contains("mixed: long_prompt.max"));
}
