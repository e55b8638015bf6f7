//! The program as a user runs it: what it prints, and how it refuses what cannot work. No vLLM engine is started here.

use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::check_run;
use crate::support::program::{self, root, text};
use crate::support::schemas;

/// The program in a folder of its own, so that no settings file and no environment of the tester reaches it.
struct Dualpool {
    folder: TempDir,
    command: Command,
}

fn dualpool(args: &[&str]) -> Dualpool {
    let folder = tempfile::tempdir().unwrap();
    let command = program::dualpool(&folder, args);
    Dualpool { folder, command }
}

impl Dualpool {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.folder.path().join(name), text).unwrap();
        self
    }

    /// Another command in the same folder.
    fn again(&self, args: &[&str]) -> Dualpool {
        let mut next = dualpool(args);
        next.command.current_dir(&self.folder);
        next
    }

    fn output(&mut self) -> Output {
        self.command.output().unwrap()
    }

    /// Standard output of a run that must succeed.
    #[track_caller]
    fn prints(mut self) -> String {
        let output = self.output();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What a run says that must fail with this code and these words, without printing a result. Progress may come before.
    #[track_caller]
    fn refuses(&mut self, code: i32, words: &[&str]) {
        let output = self.output();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.lines().any(|line| line.starts_with("error: ")), "{said}");
        for word in words {
            assert!(said.contains(word), "`{word}` is missing in: {said}");
        }
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn config_shows_each_value_with_its_origin() {
    let shown = dualpool(&["config", "--device", "cpu", "--load", "0.9"])
        .file("dualpool.toml", "[engine]\nmax_num_seqs = 8\n")
        .env("DUALPOOL_ENGINE__BLOCK_SIZE", "64")
        .prints();
    let line = |key: &str| {
        let line = shown.lines().find(|line| line.starts_with(&format!("{key} "))).unwrap_or_else(|| panic!("{key} in {shown}"));
        line.split_whitespace().skip(1).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(line("workload.load"), ["0.9", "--load"]);
    assert_eq!(line("engine.block_size"), ["64", "DUALPOOL_ENGINE__BLOCK_SIZE"]);
    assert_eq!(line("engine.max_num_seqs"), ["8", "./dualpool.toml"]);
    assert_eq!(line("run.repetitions"), ["0", "default"]);
}

#[test]
fn config_as_toml_is_a_settings_file_that_stands_for_the_same() {
    let toml = dualpool(&["config", "--toml", "--device", "cpu", "--seed", "7", "--arms", "auto"]).prints();
    let again = dualpool(&["config", "--toml", "--config", "all.toml"]).file("all.toml", &toml).prints();
    assert_eq!(toml, again);
    assert!(toml.contains("seed = 7"));
}

#[test]
fn config_as_json_names_value_and_origin() {
    let json = dualpool(&["config", "--json", "--device", "cpu", "-v"]).prints();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["telemetry.log"], serde_json::json!({ "value": "info", "origin": "-v" }));
    assert_eq!(json["pools.prefill_gpus"]["value"], serde_json::json!([0]));
}

#[test]
fn simulations_drawn_at_random_go_as_they_must() {
    let many = dualpool(&["torture", "--seeds", "0..20"]).prints();
    assert!(many.starts_with("20 simulations, 0 failed; "), "{many}");
    let one = dualpool(&["torture", "--seed", "7"]).prints();
    assert!(one.contains("seed: 7,") && one.contains("1 simulations, 0 failed"), "{one}");
    dualpool(&["torture", "--seeds", "5..5"]).refuses(2, &["no seed in 5..5"]);
}

#[test]
fn targets_are_listed() {
    let listed = dualpool(&["list-targets"]).prints();
    let names: Vec<_> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(
        names,
        ["dual_pool", "dynamic_router", "topology_probe", "migration_cost", "engine_timing", "noise", "sim_fidelity", "simulation"]
    );
}

#[test]
fn a_router_is_measured_and_reported_again_with_how_it_settled() {
    let args = ["run", "dynamic_router", "--quick", "--device", "virtual", "--set", "virtual.speed=20", "--out", "here"];
    let mut run = dualpool(&args);
    run.command.args(["--workload", "two_wave_imbalance", "--policies", "least_load,dynamic_router", "--settle"]);
    let output = run.output();
    let (shown, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    for word in ["foreground", "mix two_wave_imbalance", "TPOT in ms", "here/two_wave_imbalance"] {
        assert!(shown.contains(word), "`{word}` is missing in: {shown}");
    }
    assert!(said.contains("--update-expectations"), "nothing was accepted yet: {said}");
    let again = run.again(&["report", "--settle", "here"]).prints();
    assert!(again.contains("TPOT in ms") && again.contains("foreground"), "{again}");
    check_run::agrees(&run.folder.path().join("here"));
    let full = run.again(&["report", "--full", "here"]).prints();
    assert!(full.contains("dynamic_router against least_load") && full.contains("here/two_wave_imbalance"), "{full}");
}

#[test]
fn what_a_router_cannot_be_measured_with_is_a_matter_of_usage() {
    let refuses = |args: &[&str], words: &[&str]| {
        let all = [&["run", "dynamic_router", "--device", "virtual"], args].concat();
        dualpool(&all).refuses(2, words);
    };
    refuses(&["--workload", "trace"], &["dynamic_router.trace"]);
    refuses(&["--trace", "nowhere.jsonl"], &["cannot open the trace nowhere.jsonl"]);
    refuses(&["--policies", "dual_pool"], &["dynamic_router.arms"]);
    refuses(&["--policy", "magic"], &["router.policy"]);
    refuses(&["--arms", "auto"], &["use --policies"]);
    refuses(&["--max-model-len", "2000", "--max-num-batched-tokens", "1024"], &["mixed", "long_prompt.max"]);
}

#[test]
fn a_calibration_is_measured_written_and_read_by_name() {
    // Both targets' names lead to it. Whatever the machine, the file it leaves is its own.
    let mut calibrate = dualpool(&["calibrate", "--quick", "--device", "cpu"]);
    let output = calibrate.output();
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for word in ["ceiling", "GB/s", "submit us", "us per range", "unseen p50", "artifacts/migration_cost/calibration.json"] {
        assert!(shown.contains(word), "`{word}` is missing in: {shown}");
    }
    let json = calibrate.again(&["run", "migration_cost", "--quick", "--device", "cpu", "--json", "--out", "here"]).prints();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let kept = std::fs::read_to_string(calibrate.folder.path().join("here/migration_cost.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&kept).unwrap(), json);
    assert!(json["links"][0]["classes"][0]["cost"]["bytes_per_s"].as_f64().unwrap() > 0.0);
    calibrate.again(&["calibrate", "--quick", "--device", "cpu", "--out", "here"]).refuses(2, &["already holds a run", "here"]);

    // Another machine's is refused before any engine starts.
    assert_eq!(schemas::all_fit(&calibrate.folder.path().join("artifacts/migration_cost")), ["calibration.json"]);
    assert_eq!(schemas::all_fit(&calibrate.folder.path().join("here")), ["migration_cost.json"]);
    let path = calibrate.folder.path().join("artifacts/migration_cost/calibration.json");
    let mut other: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    other["machine"]["cpu"] = "Z80".into();
    std::fs::write(calibrate.folder.path().join("other.json"), other.to_string()).unwrap();
    let run = |file| calibrate.again(&["run", "dual_pool", "--device", "cpu", "--calibration", file]);
    run("other.json").refuses(2, &["other.json", "another processor", "Z80", "dualpool calibrate", "--calibration none"]);
    run("nowhere.json").refuses(2, &["nowhere.json", "dualpool calibrate"]);
}

#[test]
fn engines_without_memory_are_not_calibrated() {
    dualpool(&["calibrate", "--device", "virtual"]).refuses(1, &["virtual 0", "--device cpu"]);
}

#[test]
fn completions_know_the_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let script = dualpool(&["completions", shell]).prints();
        assert!(script.contains("prefill-ctx-thresh"), "{shell}");
    }
}

#[test]
fn help_shows_defaults() {
    let help = dualpool(&["run", "--help"]).prints();
    for part in ["--prefill-gpus <LIST>", "[default: 1024]", "--quick", "--set <KEY=VALUE>"] {
        assert!(help.contains(part), "`{part}` is missing in: {help}");
    }
}

#[test]
fn wrong_settings_are_usage_errors_that_name_them() {
    dualpool(&["run", "dual_pool"])
        .env("DUALPOOL_ENGINE__MODLE", "x")
        .refuses(2, &["`engine.modle`", "DUALPOOL_ENGINE__MODLE", "did you mean `engine.model`?", "hint: "]);
    dualpool(&["run", "dual_pool", "--load", "-1"]).refuses(2, &["`workload.load` is -1", "--load", "at most 1.5"]);
    dualpool(&["run", "dual_pool", "--device", "cpu", "--decode-gpus", "0"]).refuses(2, &["`pools.decode_gpus`", "core set"]);
    dualpool(&["config", "--config", "nowhere.toml"]).refuses(2, &["nowhere.toml", "cause: "]);
    dualpool(&["config"]).file("dualpool.toml", "[engine]\nmodel = \n").refuses(2, &["dualpool.toml", "line 2"]);
    dualpool(&["config", "--set", "router.resume_max=1"]).refuses(2, &["did you mean `router.resumes_max`?"]);
    dualpool(&["config", "--set", "router.resumes_max"]).refuses(2, &["KEY=VALUE"]);
}

#[test]
fn unknown_targets_flags_and_commands_are_usage_errors() {
    dualpool(&["run", "dual_poll"]).refuses(2, &["`dual_poll`", "dual_pool", "list-targets"]);
    dualpool(&["run", "dual_pool", "--modle", "x"]).refuses(2, &["--modle", "--model"]);
    dualpool(&["lst-targets"]).refuses(2, &["lst-targets", "list-targets"]);
}

#[test]
fn gpus_that_do_not_exist_are_refused() {
    // With a driver the message lists the GPUs there are, without one it says that there is none.
    dualpool(&["run", "dual_pool", "--device", "gpu", "--decode-gpus", "99"]).refuses(2, &["GPU", "hint: `dualpool doctor`"]);
}

#[test]
fn an_output_folder_that_cannot_be_made_is_refused_before_any_engine_starts() {
    dualpool(&["run", "dual_pool", "--device", "cpu", "--out", "/dev/null/run"]).refuses(2, &["/dev/null/run", "hint: "]);
}

#[test]
fn a_calibration_that_could_not_be_kept_is_refused_before_anything_is_copied() {
    let refuses = |flag: &str, path: &str, words: &[&str]| {
        dualpool(&["calibrate", "--device", "cpu", flag, path]).file("file", "").refuses(2, words);
    };
    refuses("--out", "file/run", &["cannot write the run folder file/run", "file is not a folder"]);
    refuses("--calibration", "file/c.json", &["cannot write the calibration of copies file/c.json", "file is not a folder"]);
}

#[test]
fn engines_that_cannot_start_are_refused_and_leave_no_folder() {
    let (venv, model) = (root().join(".venv"), root().join("models/tiny-llama"));
    let refuses = |flags: &[&str], words: &[&str]| {
        let all = ["run", "dual_pool", "--device", "cpu", "--out", "run"].iter().chain(flags).copied().collect::<Vec<_>>();
        let mut program = dualpool(&all)
            .env("DUALPOOL_ENGINE__VENV", venv.to_str().unwrap())
            .env("DUALPOOL_ENGINE__MODEL", model.to_str().unwrap());
        program.refuses(1, words);
        assert!(!program.folder.path().join("run").exists(), "{flags:?} left its folder behind");
    };
    refuses(&["--model", "nowhere"], &["nowhere", "make setup"]);
    refuses(&["--model", "."], &["config.json"]);
    refuses(&["--venv", "nowhere"], &["nowhere/bin/python", "make setup"]);
    refuses(&["--run-dir", "/dev/null/x"], &["kv.run_dir /dev/null/x"]);
    refuses(&["--kv-cache-mib", "90000000"], &["engine.kv_cache_mib"]);
}

/// A small run on virtual engines, which takes seconds.
const SMALL: [&str; 16] = [
    "run",
    "dual_pool",
    "--device",
    "virtual",
    "--arms",
    "shared_round_robin,full_disaggregation",
    "--rate",
    "8",
    "--prefill-burst",
    "1",
    "--decode-requests",
    "5",
    "--continue-requests",
    "0",
    "--out",
    "run",
];

/// `run.json` of the run in `run`, and how many requests it recorded.
fn ran(program: &Dualpool) -> (serde_json::Value, usize) {
    let read = |name: &str| std::fs::read_to_string(program.folder.path().join("run").join(name)).unwrap();
    (serde_json::from_str(&read("run.json")).unwrap(), read("requests.jsonl").lines().count())
}

#[test]
fn a_run_goes_on_with_its_arms_and_its_settings() {
    let mut program = dualpool(&[&SMALL[..], &["--repetitions", "1"]].concat());
    assert!(program.output().status.success());
    let (before, requests) = ran(&program);
    let output = program.again(&["run", "--resume", "run", "--repetitions", "2", "--json"]).output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let (after, all) = ran(&program);
    assert_eq!((&summary["repetitions"], all), (&3.into(), 3 * requests));
    for key in ["id", "arms", "rate_rps", "objectives", "environment", "command"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    let seeds: std::collections::BTreeSet<u64> =
        after["seeds"].as_array().unwrap().iter().map(|seed| seed.as_u64().unwrap()).collect();
    assert_eq!(seeds.len(), 3, "each repetition has requests of its own");
    assert_eq!(after["resumed"][0]["command"][2], "--resume");

    program.again(&["run", "--resume", "run", "--load", "0.9"]).refuses(2, &["--load beside --resume", "hint: "]);
    program.again(&["run", "--resume", ".", "--budget", "9s"]).refuses(2, &["run.json"]);
    program.again(&["run", "dual_pool", "--resume", "run"]).refuses(2, &["--resume"]);
}

#[test]
fn noise_is_calibrated_and_later_runs_know_of_it() {
    let small =
        ["--device", "virtual", "--rate", "200", "--prefill-burst", "1", "--decode-requests", "11", "--continue-requests", "0"];
    let quick = ["--long-prompt-tokens", "300", "--max-tokens", "3", "--set", "virtual.speed=4"];
    let mut program = dualpool(&[&["calibrate", "--noise", "--out", "noise", "--json"], &small[..], &quick].concat());
    let output = program.output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let noise: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&noise["repetitions"], &noise["drawn"]), (&20.into(), &2000.into()));
    let metrics = noise["metrics"].as_array().unwrap().iter().map(|of| of["metric"].as_str().unwrap());
    assert_eq!(metrics.collect::<Vec<_>>(), ["goodput_share", "ttft_ms.short.p95", "itl_ms.p99"]);
    let wrong = noise["wrong_share"].as_f64().unwrap();
    assert!((0.0..=0.05).contains(&wrong), "{wrong} of identical arms are called different");

    let args = ["run", "dual_pool", "--arms", "shared_round_robin", "--repetitions", "1", "--out", "run"];
    assert!(program.again(&[&args[..], &small, &quick].concat()).output().status.success());
    let notes = ran(&program).0["notes"].to_string();
    assert!(notes.contains("Identical arms on this machine, calibrated on"), "{notes}");
    program.again(&["calibrate", "--noise", "--device", "virtual", "--repetitions", "5"]).refuses(2, &["is 5", "at least 20"]);
}

#[test]
fn a_killed_run_goes_on_with_what_it_had_finished() {
    let mut program = dualpool(&[&SMALL[..], &["--repetitions", "50"]].concat());
    let mut child = program.command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.starts_with("measurement 5/")).expect("the run ended before its second repetition");
    child.kill().unwrap();
    child.wait().unwrap();
    let records = program.folder.path().join("run/requests.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(records).unwrap();
    std::io::Write::write_all(&mut file, b"{\"arm\": \"shared_ro").unwrap();
    let output = program.again(&["run", "--resume", "run", "--repetitions", "1", "--json"]).output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    check_run::agrees(&program.folder.path().join("run"));
    // The first one, and the one after the one that was cut short.
    assert_eq!((&summary["repetitions"], ran(&program).0["seeds"].as_array().unwrap().len()), (&2.into(), 3));
}

#[test]
fn a_run_prints_its_table_and_leaves_artifacts_that_report_reads() {
    let mut program = dualpool(&[&SMALL[..], &["--repetitions", "2"]].concat());
    let output = program.output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    for part in ["shared_round_robin", "full_disaggregation", "report.html"] {
        assert!(table.contains(part), "`{part}` is missing in: {table}");
    }
    let progress = text(&output.stderr);
    assert!(progress.contains("measurement 1/") && progress.contains("engine stop"), "{progress}");

    let report = program.again(&["report", "run"]).output();
    assert!(report.status.success(), "{}", text(&report.stderr));
    assert!(text(&report.stdout).contains("full_disaggregation"));
    let taken = program.again(&SMALL).output();
    assert_eq!(taken.status.code(), Some(2));
    assert!(text(&taken.stderr).contains("--out"), "{}", text(&taken.stderr));
}

#[test]
fn a_dry_run_tells_the_plan_and_leaves_nothing() {
    let plan = |args: &[&str]| {
        let all = [&["run"], args, &["--dry-run", "--device", "virtual"]].concat();
        let mut program = dualpool(&all);
        let output = program.output();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(std::fs::read_dir(&program.folder).unwrap().count(), 0, "{args:?} left something");
        text(&output.stdout)
    };
    let line = |plan: &str, name: &str| {
        plan.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {plan}")).to_string()
    };
    let split = plan(&["dual_pool", "--budget", "4m", "--itl-ms", "50", "--arms", "shared_tuned,dual_pool"]);
    for (name, words) in [
        ("target", &["dual_pool"][..]),
        ("engines", &["engine-0 on virtual 0 (prefill)", "engine-1 on virtual 1 (decode)"]),
        ("model", &["virtual engines"]),
        (
            "workload",
            &["balanced: 4 long prompts of 1024 tokens, 32 short prompts of 64 tokens", "0.7 times what the engines take"],
        ),
        ("arms", &["shared_tuned, dual_pool, shared_tuned_control"]),
        ("objectives", &["TTFT 5 x idle after short prompts", "ITL 50 ms", "measured first"]),
        ("length", &["a budget of 240 s", "ends sooner when all that was planned is decided"]),
        ("time", &["at most 240 s once the engines are up"]),
        ("artifacts", &["artifacts/dual_pool/<UTC time>-<id>"]),
    ] {
        let line = line(&split, name);
        assert!(words.iter().all(|word| line.contains(word)), "{words:?} in {line}");
    }
    let exact = plan(&["dual_pool", "--exact", "--arms", "dual_pool", "--out", "here"]);
    assert!(line(&exact, "arms").ends_with("one_engine, dual_pool, one_engine_control"), "{exact}");
    assert!(line(&exact, "length").contains("one repetition") && line(&exact, "workload").ends_with("one at a time"), "{exact}");
    assert!(line(&exact, "objectives").contains("none") && line(&exact, "artifacts").ends_with("here"), "{exact}");

    let router = plan(&["dynamic_router", "--repetitions", "3", "--rate", "2"]);
    let workloads: Vec<&str> = router.lines().filter(|line| line.starts_with("workload")).collect();
    assert!(workloads.len() == 3 && workloads[0].contains("mixed: ") && workloads[0].ends_with("2 requests/s"), "{router}");
    assert!(line(&router, "engines").ends_with("engine-0 on virtual 0, engine-1 on virtual 1"), "{router}");
    assert!(line(&router, "length").contains("3 repetitions") && line(&router, "time").contains("as long as it takes"), "{router}");
}

#[test]
fn a_dry_run_checks_what_the_run_would() {
    let refuses = |args: &[&str], words: &[&str]| {
        let all = [&["run"], args, &["--dry-run", "--device", "virtual"]].concat();
        dualpool(&all).file("requests.jsonl", "").file("file", "").refuses(2, words);
    };
    refuses(&["dual_pool", "--out", "."], &["already holds a run"]);
    refuses(&["dual_pool", "--out", "file/run"], &["cannot write the run folder file/run"]);
    refuses(&["dual_pool", "--load", "-1"], &["`workload.load` is -1"]);
    refuses(&["dynamic_router", "--trace", "nowhere.jsonl"], &["cannot open the trace nowhere.jsonl"]);
    refuses(&["migration_cost"], &["migration_cost compares no arms", "dual_pool and dynamic_router"]);
    refuses(&["dual_pool", "--json"], &["--json"]);
}

#[test]
fn what_a_fixed_number_of_repetitions_leaves_without_effect_is_said() {
    let mut run = dualpool(&["run", "dual_pool", "--dry-run", "--device", "virtual", "--quick", "--budget", "4m"]);
    let said = text(&run.output().stderr);
    assert!(said.contains("note: run.budget_s is 240 (from --budget) and bounds nothing: with --quick"), "{said}");
}

#[test]
fn json_is_the_summary_and_nothing_else() {
    let output = dualpool(&[&SMALL[..], &["--json", "--repetitions", "1"]].concat()).prints();
    let summary: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(summary["target"], "dual_pool");
    assert_eq!(summary["held_blocks_after"], 0);
}

#[test]
fn a_name_that_is_not_utf8_is_no_reason_to_fail() {
    let mut program = dualpool(&[&SMALL[..], &["--repetitions", "1"]].concat());
    let name = std::ffi::OsStr::from_bytes(b"odd\xff.toml");
    std::fs::write(program.folder.path().join(name), "").unwrap();
    program.command.arg("--config").arg(name);
    let folder = program.folder.path().join("run/run.json");
    let output = program.output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(std::fs::read_to_string(folder).unwrap().contains("odd\u{fffd}.toml"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for args in [&["list-targets"][..], &["config"], &["completions", "bash"], &["top", "--once"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = dualpool(args).command.stdout(writer).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn ctrl_c_ends_in_order_and_keeps_what_was_finished() {
    let mut program = dualpool(&[&SMALL[..], &["--repetitions", "50"]].concat());
    let mut child = program.command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    // The third arm's run has begun, so two are on disk.
    lines.find(|line| line.starts_with("measurement 3/")).expect("the run ended before its third arm");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.starts_with("stopping")), "{rest:?}");
    let run = std::fs::read_to_string(program.folder.path().join("run/run.json")).unwrap();
    let run: serde_json::Value = serde_json::from_str(&run).unwrap();
    assert_eq!(run["interrupted"], true);
    let kept = std::fs::read_to_string(program.folder.path().join("run/requests.jsonl")).unwrap();
    assert!(kept.lines().count() >= 12, "two arms of six requests were finished, {} are kept", kept.lines().count());
    check_run::agrees(&program.folder.path().join("run"));
}

#[test]
fn a_folder_without_a_run_is_a_matter_of_usage_whatever_is_to_be_done_with_it() {
    for (command, file) in [
        (&["report"][..], "run.json"),
        (&["report", "--settle"], "run.json"),
        (&["plot"], "run.json"),
        (&["explain"], "decisions.jsonl"),
        (&["top"], "samples.jsonl"),
    ] {
        dualpool(&[command, &["nowhere"]].concat()).refuses(2, &["nowhere", "hint: "]);
        dualpool(&[command, &["."]].concat()).refuses(2, &[file, "hint: "]);
    }
}

#[test]
fn doctor_names_what_is_missing_and_what_mends_it() {
    let output = dualpool(&["doctor", "--device", "cpu"]).output();
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    for part in ["MISSING Python", "MISSING model", "-> make setup", "ok      artifacts", "2 of "] {
        assert!(shown.contains(part), "`{part}` is missing in: {shown}");
    }
}

#[test]
fn doctor_finds_all_that_setup_made() {
    let (venv, model) = (root().join(".venv"), root().join("models/tiny-llama"));
    let args =
        ["doctor", "--device", "cpu", "--kv-cache-mib", "64", "--venv", venv.to_str().unwrap(), "--model", model.to_str().unwrap()];
    let shown = dualpool(&args).prints();
    for part in [
        "ok      Python",
        "ok      libpython",
        "ok      vLLM",
        "ok      model",
        "ok      shared memory",
        "all that a run needs is here",
    ] {
        assert!(shown.contains(part), "`{part}` is missing in: {shown}");
    }
}
