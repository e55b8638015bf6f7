//! `--exact`: a moved request's tokens equal those of one engine, for three kinds of model; and the check can fail.

use std::process::Command;

use serde_json::Value;

use dualpool_bench::targets::dual_pool;
use dualpool_bench::{Cancel, Settings, environment};
use dualpool_fleet::Silent;

use super::pair;
use crate::support::faults::Fault;
use crate::support::schemas;

const ARMS: &str = "shared_least_load,full_disaggregation,dual_pool";

/// Through the program itself, in the model's own dtype (bf16), with every copy checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_models() {
    let Some(_cores) = pair::cores().await else { return };
    for model in ["tiny-llama", "tiny-qwen3-moe", "tiny-sliding-window"] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let run = Command::new(env!("CARGO_BIN_EXE_dualpool"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["run", "dual_pool", "--exact", "--verify-kv", "--device", "cpu", "--arms", ARMS])
            .args(["--model".as_ref(), pair::model(model).as_os_str(), "--out".as_ref(), out.as_os_str()])
            .output()
            .unwrap();
        let said = format!("{}\n{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{model}: {said}");

        let summary: Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
        assert_eq!(schemas::violations("summary.json", &summary), Vec::<String>::new(), "{model}");
        assert_eq!(summary["held_blocks_after"], 0, "{model}");
        for (arm, identical) in summary["identical_requests"].as_object().unwrap() {
            assert_eq!(identical["same"], identical["compared"], "{model}, {arm}");
            assert!(identical["compared"].as_u64().unwrap() > 0, "{model}, {arm}");
        }
        let moved = summary["arms"].as_array().unwrap().iter().find(|arm| arm["name"] == "full_disaggregation").unwrap();
        assert_eq!(moved["handoffs"]["count"], moved["requests"], "{model}: every prompt moves");
        println!("[real engines]   {model}: {} requests identical in every arm", moved["requests"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skipped_block_fails_the_run() {
    let Some(_cores) = pair::cores().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut settings: Settings = pair::settings("tiny-llama");
    settings.run.exact = true;
    settings.run.arms = vec!["full_disaggregation".into()];
    settings.run.out = folder.path().join("run");
    settings.workload.max_tokens = 16;
    let fleet = pair::start(&settings, Fault::SkipPart).await;
    let environment = environment::gather(&fleet, &settings);
    let outcome = dual_pool::run(&fleet, environment, &settings, Vec::new(), &Silent, &Cancel::new()).await;
    let why = format!("{:#}", outcome.expect_err("a run with skipped blocks passed as exact"));
    assert!(why.contains("arm `full_disaggregation`") && why.contains("output token"), "{why}");
    assert!(fleet.settle(pair::SETTLE).await.unwrap().is_quiet());
    pair::shut_down(&fleet).await;
}
