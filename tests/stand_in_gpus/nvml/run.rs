//! A whole run of the target whose engines have GPUs: what reaches samples.jsonl, run.json and the router.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use dualpool_bench::targets::dual_pool;
use dualpool_bench::{Cancel, environment};
use dualpool_fleet::Progress;
use dualpool_fleet::{Fleet, GpuWatch};
use dualpool_types::records::{GpuSample, Sample};
use dualpool_types::{EngineId, Micros, MonotonicClock};

use crate::support::fakes::FakeNvml;
use crate::support::virtual_pair;

fn samples(path: &Path) -> Vec<Sample> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn gpus(samples: &[Sample]) -> Vec<&GpuSample> {
    samples.iter().filter_map(|sample| if let Sample::Gpu(sample) = sample { Some(&**sample) } else { None }).collect()
}

/// Looks into samples.jsonl at the beginning of every step: what is there before the first run is over was shown live.
struct Follow {
    file: std::path::PathBuf,
    seen: std::sync::Mutex<BTreeSet<String>>,
}

impl Progress for Follow {
    fn phase(&self, _name: &str, _steps: u32) {}

    fn step(&self, _what: &str) {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let arms = text.lines().filter_map(|line| match serde_json::from_str(line).ok()? {
            Sample::Engine(sample) => Some(sample.arm),
            Sample::Gpu(_) => None,
        });
        self.seen.lock().unwrap().extend(arms);
    }

    fn show(&self, _text: &str) {}

    fn note(&self, _text: &str) {}
}

async fn watched(fake: &FakeNvml, fleet: &Fleet, uuids: &[&str]) {
    let uuids = uuids.iter().map(|&uuid| Some(Arc::from(uuid))).collect();
    let library = fake.library();
    let clock = Arc::new(MonotonicClock::new());
    let watch = GpuWatch::start(Some(library.as_os_str()), uuids, Micros::from_ms(10.0), clock).unwrap();
    fleet.watch_gpus(watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_of_gpus_stand_beside_those_of_engines_and_a_lost_one_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = virtual_pair::settings(dir.path());
    settings.run.arms = ["shared_least_load", "dual_pool"].map(String::from).to_vec();
    // The engines' GPUs in another order than NVML's, and one that no engine has.
    let fake = FakeNvml::new(
        r#"{"gpus": [
            {"uuid": "GPU-b", "phases": [{"load": "busy"}], "lost_after": 20, "xid": {"round": 5, "code": 94}},
            {"uuid": "GPU-other"},
            {"uuid": "GPU-a", "phases": [{"load": "throttled", "rounds": 3}, {"load": "busy"}]}
        ]}"#,
    );
    let fleet = virtual_pair::fleet(virtual_pair::engines(), &settings);
    watched(&fake, &fleet, &["GPU-a", "GPU-b"]).await;
    let environment = environment::gather(&fleet, &settings);
    let follow = Follow { file: dir.path().join("run/samples.jsonl"), seen: Default::default() };
    let outcome = dual_pool::run(&fleet, environment, &settings, vec![], &follow, &Cancel::new()).await.unwrap();
    fleet.shutdown().await;

    let lines = samples(&outcome.dir.join("samples.jsonl"));
    let gpus = gpus(&lines);
    let placed: BTreeSet<_> =
        gpus.iter().map(|sample| (&*sample.reading.uuid, sample.reading.gpu, sample.engines.clone())).collect();
    let expected = [("GPU-a", 2, vec![EngineId(0)]), ("GPU-b", 0, vec![EngineId(1)])];
    assert_eq!(placed, BTreeSet::from(expected), "by UUID, whatever the order");
    let a_healthy = |sample: &&&GpuSample| &*sample.reading.uuid == "GPU-a";
    assert!(gpus.iter().filter(a_healthy).all(|sample| sample.reading.sm_util == Some(0.87) && !sample.reading.lost));
    let b_lost = |sample: &&&GpuSample| &*sample.reading.uuid == "GPU-b";
    assert!(gpus.iter().filter(b_lost).any(|sample| sample.reading.lost && sample.reading.sm_util.is_none()));

    let seen = follow.seen.lock().unwrap();
    assert!(seen.contains("shared_round_robin"), "the calibration was shown while it went on: {seen:?}");
    let arms: BTreeSet<String> = lines
        .iter()
        .filter_map(|sample| if let Sample::Engine(sample) = sample { Some(sample.arm.clone()) } else { None })
        .collect();
    assert!(!arms.contains("shared_round_robin") && arms.contains("dual_pool"), "and it was cut off when it was over: {arms:?}");

    let artifacts = dualpool_report::load(&outcome.dir).unwrap();
    let notes = artifacts.run.notes.join("\n");
    for said in ["GPU 0 (GPU-b) reported Xid 94", "GPU 0 (GPU-b) is lost", "GPU 2 was slowed down in 3 of"] {
        assert!(notes.contains(said), "`{said}` is missing in: {notes}");
    }
    assert!(artifacts.samples.iter().any(|sample| sample.arm == "dual_pool" && sample.transfers_in > 0));
}
