//! `dualpool calibrate` on virtual GPUs: every class that the driver allows is measured for every ordered pair, and a run finds its pairs
//! in the file that is left. What a virtual GPU takes says nothing of a real one, so no figure is looked at here.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use dualpool_bench::targets::migration_cost::MigrationCost;

use crate::support::fake_cuda::FakeCuda;
use crate::support::{program, schemas};

fn dualpool(folder: &Path, script: &str, args: &[&str]) -> Output {
    let mut command = program::dualpool(folder, args);
    command.args(["--device", "virtual", "--set", "virtual.kv=cuda"]);
    let cuda = FakeCuda::new();
    cuda.for_command(&mut command, script);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn every_class_of_every_pair_is_measured_and_a_run_knows_its_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"{"machine":"migration-cost","gpus":2,"memory_mib":1024}"#;
    dualpool(folder.path(), script, &["calibrate", "--quick", "--out", "run", "--profile", "minimal"]);
    // A target without requests has nothing to tell there, but it was profiled.
    assert!(folder.path().join("run/profile.json").exists());
    assert_eq!(schemas::all_fit(&folder.path().join("run")), ["migration_cost.json", "profile.json"]);
    let text = std::fs::read_to_string(folder.path().join("run/migration_cost.json")).unwrap();
    let cost: MigrationCost = serde_json::from_str(&text).unwrap();
    let ends: BTreeSet<_> = cost.links.iter().map(|link| (&link.from, &link.to)).collect();
    assert_eq!((cost.links.len(), ends.len()), (2, 2), "there and back: {ends:?}");
    for link in &cost.links {
        let classes: Vec<&str> = link.classes.iter().map(|class| class.class.name()).collect();
        assert!(link.transport == "cuda" && link.from.starts_with("GPU-") && classes.contains(&"direct"), "{classes:?}");
        for class in &link.classes {
            let points = link.points.iter().filter(|point| point.class == class.class);
            assert_eq!(points.count(), link.choices.len(), "{}", class.class);
        }
    }
    let load = ["--rate", "60", "--prefill-burst", "2", "--decode-requests", "10", "--continue-requests", "0"];
    let args = ["run", "dual_pool", "--repetitions", "1", "--arms", "shared_round_robin,full_disaggregation", "--out", "served"];
    let args: Vec<&str> = args.into_iter().chain(load).chain(["--set", "virtual.speed=20"]).collect();
    dualpool(folder.path(), script, &args);
    let served = dualpool_report::load(&folder.path().join("served")).unwrap();
    assert!(served.run.notes.iter().any(|note| note.contains("known for 2 of 2 ordered pairs")), "{:?}", served.run.notes);
}
