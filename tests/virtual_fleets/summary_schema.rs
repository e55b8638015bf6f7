//! A run's `summary.json` is what `docs/schemas/summary.schema.json` promises, and follows from the raw records beside it.

use std::fs;

use serde_json::Value;

use dualpool_bench::targets::dual_pool;
use dualpool_bench::{Cancel, environment, stats};
use dualpool_fleet::Silent;
use dualpool_report::load;
use dualpool_types::{Arm, EngineId};

use crate::support::{program, schemas, virtual_pair};

fn violations(summary: &Value) -> Vec<String> {
    schemas::violations("summary.json", summary)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_leaves_a_summary_that_fits_the_schema_and_can_be_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    // All that stay what they are.
    let wanted: Vec<&str> = Arm::nameable().filter(|arm| *arm != Arm::Auto).map(Arm::name).collect();
    settings.run.arms = wanted.iter().map(ToString::to_string).collect();
    let fleet = virtual_pair::fleet(virtual_pair::engines(), &settings);
    let environment = environment::gather(&fleet, &settings);
    let outcome = dual_pool::run(&fleet, environment, &settings, vec!["dualpool".into()], &Silent, &Cancel::new()).await.unwrap();
    fleet.shutdown().await;

    let text = fs::read_to_string(outcome.dir.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(violations(&summary), Vec::<String>::new());
    assert_eq!(schemas::all_fit(&outcome.dir), ["requests.jsonl", "run.json", "samples.jsonl", "summary.json"]);

    let names: Vec<&str> = summary["arms"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    let (control, arms) = names.split_last().unwrap();
    // Arms that the search brought to the arrangement of another one are measured with it.
    let stands_for = load(&outcome.dir).unwrap().run.stands_for;
    let merged: Vec<&str> = stands_for.values().flatten().map(String::as_str).collect();
    let measured: Vec<&str> = wanted.iter().copied().filter(|arm| !merged.contains(arm)).collect();
    assert_eq!(arms, measured);
    assert!(stands_for.keys().all(|arm| arms.contains(&arm.as_str())), "{stands_for:?}");
    assert!(merged.iter().all(|arm| wanted.contains(arm)), "{stands_for:?}");
    assert_eq!(*control, "shared_tuned_control");
    assert_eq!(summary["repetitions"], 2);
    assert_eq!(summary["held_blocks_after"], 0);
    assert_eq!(outcome.faults, Vec::<String>::new());
    assert!(outcome.dir.join("report.html").exists());
    for arm in &outcome.summary.arms {
        assert_eq!(arm.errors, [], "{}", arm.name);
        assert!(arm.ttft_ms.short.p95.is_some() && arm.itl_ms.p99.is_some() && arm.throughput_rps.is_some(), "{}", arm.name);
        let pools = arm.queue_depth_mean;
        assert_eq!(pools.shared.is_some(), arm.engines.iter().all(|e| e.role == dualpool_types::Role::Shared), "{}", arm.name);
    }
    let full = outcome.summary.arms.iter().find(|a| a.name == "full_disaggregation").unwrap();
    assert_eq!(full.handoffs.count, full.requests, "every prompt moves");
    for (arm, identical) in &outcome.summary.identical_requests {
        assert_eq!(identical.same, identical.compared, "{arm}: virtual engines are deterministic");
    }

    let rebuilt = serde_json::to_value(stats::rebuild(&outcome.dir).unwrap()).unwrap();
    assert_eq!(rebuilt, summary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_drained_meanwhile_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let settings = virtual_pair::settings(dir.path());
    let fleet = virtual_pair::fleet(virtual_pair::engines(), &settings);
    fleet.drain(EngineId(1)).await.unwrap();
    let environment = environment::gather(&fleet, &settings);
    let outcome = dual_pool::run(&fleet, environment, &settings, vec![], &Silent, &Cancel::new()).await.unwrap();
    fleet.shutdown().await;

    assert_eq!(outcome.summary.drained, [EngineId(1)]);
    let text = fs::read_to_string(outcome.dir.join("summary.json")).unwrap();
    assert_eq!(violations(&serde_json::from_str(&text).unwrap()), Vec::<String>::new());
    let notes = load(&outcome.dir).unwrap().notes;
    assert!(notes.iter().any(|note| note.starts_with("engine-1 was drained and took no requests in ")), "{notes:?}");
}

#[test]
fn the_schema_refuses_what_is_not_a_summary() {
    assert!(!violations(&serde_json::json!({"target": "dual_pool"})).is_empty());
    let comparison = |verdict: &str| {
        serde_json::json!({
            "baseline": "a", "candidate": "b", "metric": "itl_ms.p99", "planned": false, "repetitions": 6, "ratio": null,
            "difference": null, "ci_low": 0.5, "ci_high": null, "p_value": null, "visible": null, "verdict": verdict
        })
    };
    let summary = |verdict: &str| {
        serde_json::json!({
            "schema_version": 3,
            "target": "dual_pool",
            "environment": {
                "dualpool": "0", "backend": "b", "model": "m", "dtype": "d", "os": "o", "cpu": "c", "cores": 2, "memory_bytes": 1,
                "gpus": [], "engines": []
            },
            "mix": "balanced", "arrivals": "poisson", "rate_rps": 8.0, "repetitions": 1,
            "objectives": {"ttft_short_ms": 1.0, "ttft_long_ms": 1.0, "itl_ms": 1.0},
            "arms": [], "comparisons": [comparison(verdict)], "identical_requests": {}, "exact": false, "held_blocks_after": 0
        })
    };
    assert_eq!(violations(&summary("better")), Vec::<String>::new());
    assert_eq!(violations(&summary("great")).len(), 1);
    let mut more = summary("better");
    more["more"] = 1.into();
    assert_eq!(violations(&more).len(), 1);
    let note = serde_json::json!({"arm": "a", "repetition": 0, "at_us": 1, "kind": "drained", "engine": 0});
    assert_eq!(schemas::violations("decisions.jsonl", &note), Vec::<String>::new());
    let mut more = note.clone();
    more["tokens"] = 1.into();
    assert_eq!(schemas::violations("decisions.jsonl", &more).len(), 1, "no key of another kind");
}

#[test]
fn expectations_fit_their_schema() {
    let files = fs::read_dir(program::root().join("expectations")).unwrap().map(|entry| entry.unwrap().path());
    let accepted: Vec<Value> = files.map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect();
    assert!(!accepted.is_empty());
    accepted.iter().for_each(|book| assert_eq!(schemas::violations("expectations.json", book), Vec::<String>::new()));
}
