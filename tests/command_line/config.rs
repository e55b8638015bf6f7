//! Settings as a user gives them: which layer wins, and what is refused with which words.

use std::path::Path;

use dualpool::config::{self, ConfigError, Loaded, Origin, Sources};
use dualpool_bench::{FlagValue, Settings};
use dualpool_machine::DeviceKind;
use dualpool_types::settings::values;
use dualpool_workload::Arrivals;

/// No file, no environment, no flags, no GPU.
fn bare() -> Sources {
    Sources { folder: "/nonexistent".into(), ..Sources::default() }
}

fn env(pairs: &[(&str, &str)]) -> Sources {
    Sources { env: pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(), ..bare() }
}

fn flag(flag: &str, key: &str, text: &str) -> FlagValue {
    FlagValue { flag: flag.into(), key: key.into(), text: text.into() }
}

fn folder_with(toml: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(config::FILE), toml).unwrap();
    folder
}

fn in_folder(folder: &Path) -> Sources {
    Sources { folder: folder.into(), ..Sources::default() }
}

fn load(sources: &Sources) -> Loaded {
    config::load(sources).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(sources: &Sources) -> String {
    config::load(sources).expect_err("these settings must be refused").to_string()
}

/// The setting as a flag, refused with a message that holds all these parts.
#[track_caller]
fn refuses(key: &str, text: &str, parts: &[&str]) {
    let message = refusal(&Sources { flags: vec![flag("--it", key, text)], ..bare() });
    for part in [&[key, "--it"], parts].concat() {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }
}

#[test]
fn defaults_stand_and_every_key_has_an_origin() {
    let loaded = load(&bare());
    assert_eq!(loaded.settings, Settings::default());
    assert_eq!(loaded.device, DeviceKind::Cpu);
    assert!(loaded.origins.values().all(|origin| *origin == Origin::Default));
    assert!(loaded.origins.keys().eq(values(&loaded.settings).keys()));
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let folder = folder_with("[workload]\nlong_prompt_tokens = 11\nshort_prompt_tokens = 7\nmax_tokens = 5\n");
    let sources =
        Sources { flags: vec![flag("--long-prompt-tokens", "workload.long_prompt_tokens", "33")], ..in_folder(folder.path()) };
    let environment = env(&[
        ("DUALPOOL_WORKLOAD__LONG_PROMPT_TOKENS", "22"),
        ("DUALPOOL_WORKLOAD__SHORT_PROMPT_TOKENS", "8"),
        ("HOME", "/"),
        ("DUALPOOL_PYTHON_DIR", "/"),
    ]);
    let loaded = load(&Sources { env: environment.env, ..sources });
    let workload = &loaded.settings.workload;
    assert_eq!((workload.long_prompt_tokens, workload.short_prompt_tokens, workload.max_tokens), (33, 8, 5));
    let origin = |key: &str| loaded.origins[key].to_string();
    assert_eq!(origin("workload.long_prompt_tokens"), "--long-prompt-tokens");
    assert_eq!(origin("workload.short_prompt_tokens"), "DUALPOOL_WORKLOAD__SHORT_PROMPT_TOKENS");
    assert!(origin("workload.max_tokens").ends_with("dualpool.toml"));
    assert_eq!(origin("workload.load"), "default");
}

#[test]
fn lists_and_text_come_from_the_environment_as_from_toml() {
    let loaded = load(&env(&[
        ("DUALPOOL_POOLS__PREFILL_GPUS", "0,1"),
        ("DUALPOOL_POOLS__DECODE_GPUS", "[2, 3]"),
        ("DUALPOOL_RUN__ARMS", "dual_pool,auto"),
        ("DUALPOOL_ENGINE__MODEL", "135"),
    ]));
    assert_eq!(loaded.settings.pools.prefill_gpus, [0, 1]);
    assert_eq!(loaded.settings.pools.decode_gpus, [2, 3]);
    assert_eq!(loaded.settings.run.arms, ["dual_pool", "auto"]);
    assert_eq!(loaded.settings.engine.model, Path::new("135"));
}

#[test]
fn gpus_bring_their_own_defaults_under_the_users_values() {
    let loaded = load(&Sources { gpus: 2, flags: vec![flag("--prefill-burst", "workload.prefill_burst", "9")], ..bare() });
    assert_eq!(loaded.device, DeviceKind::Gpu);
    let workload = &loaded.settings.workload;
    assert_eq!((workload.long_prompt_tokens, workload.short_prompt_tokens, workload.prefill_burst), (4096, 128, 9));
    assert_eq!(workload.arrivals, Arrivals::AllUpfront);
    assert_eq!(loaded.origins["workload.arrivals"], Origin::GpuDefault);
    assert_eq!(loaded.origins["workload.prefill_burst"], Origin::Flag("--prefill-burst".into()));
}

#[test]
fn two_gpus_are_used_unless_the_user_says_otherwise() {
    let kind = |gpus, flags: &[(&str, &str)]| {
        let flags = flags.iter().map(|(key, text)| flag("--it", key, text)).collect();
        load(&Sources { gpus, flags, ..bare() }).device
    };
    assert_eq!(kind(0, &[]), DeviceKind::Cpu);
    assert_eq!(kind(1, &[]), DeviceKind::Cpu);
    assert_eq!(kind(2, &[]), DeviceKind::Gpu);
    assert_eq!(kind(2, &[("pools.device", "cpu")]), DeviceKind::Cpu);
    assert_eq!(kind(1, &[("pools.decode_gpus", "0"), ("engine.gpu_memory_utilization", "0.4")]), DeviceKind::Gpu);
}

#[test]
fn unknown_keys_are_refused_wherever_they_stand() {
    let message = refusal(&env(&[("DUALPOOL_ENGINE__MODLE", "x")]));
    assert!(message.contains("`engine.modle`") && message.contains("DUALPOOL_ENGINE__MODLE"), "{message}");
    assert!(message.contains("did you mean `engine.model`?"), "{message}");

    let folder = folder_with("[engine]\ntemperature = 1\n");
    let message = refusal(&in_folder(folder.path()));
    assert!(message.contains("`engine.temperature`") && message.contains("dualpool.toml"), "{message}");

    let message = refusal(&env(&[("DUALPOOL_MODEL", "x")]));
    assert!(message.contains("did you mean `engine.model`?"), "{message}");
}

#[test]
fn a_renamed_key_is_refused_with_its_new_name_wherever_it_stands() {
    let folder = folder_with("[migrate]\nlease_ms = 1\n[router.migration]\nmoves_max = 2\n");
    let message = refusal(&in_folder(folder.path()));
    assert!(message.contains("unknown setting `migrate.lease_ms`") && message.contains("dualpool.toml"), "{message}");
    assert!(message.contains("it is called `kv.lease_ms` now"), "{message}");
    assert!(message.contains("it is called `router.migration.per_request_max` now"), "{message}");
    let message = refusal(&env(&[("DUALPOOL_MIGRATE__VERIFY_KV", "true")]));
    assert!(message.contains("`kv.verify`") && message.contains("DUALPOOL_MIGRATE__VERIFY_KV"), "{message}");
    refuses("migrate.run_dir", "x", &["it is called `kv.run_dir` now"]);
}

#[test]
fn a_renamed_table_is_refused_with_its_new_name_whatever_stands_in_it() {
    for toml in ["[migrate]\n", "[migrate]\nverify = true\n", "migrate = 3\n"] {
        let folder = folder_with(toml);
        let message = refusal(&in_folder(folder.path()));
        assert!(message.contains("the table `migrate` is called `kv` now") && message.contains("dualpool.toml"), "{message}");
    }
    let message = refusal(&env(&[("DUALPOOL_MIGRATE__LEASE", "4")]));
    assert!(message.contains("is called `kv` now") && message.contains("DUALPOOL_MIGRATE__LEASE"), "{message}");
}

#[test]
fn a_table_without_settings_stands_if_there_is_such_a_table() {
    let folder = folder_with("[engine]\n[router]\n");
    assert_eq!(load(&in_folder(folder.path())).settings, Settings::default());
    let folder = folder_with("[engin]\n");
    let message = refusal(&in_folder(folder.path()));
    assert!(message.contains("unknown setting `engin`") && message.contains("dualpool.toml"), "{message}");
}

/// `UPDATE_DOCS=1` writes the file.
#[test]
fn the_reference_of_settings_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let reference = config::reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &reference).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(written, reference, "docs/settings.md is stale: `UPDATE_DOCS=1 cargo test --test config` writes it anew");
}

#[test]
fn all_problems_are_named_at_once() {
    let message = refusal(&env(&[("DUALPOOL_ENGINE__MODLE", "x"), ("DUALPOOL_WORKLOAD__LAOD", "x")]));
    assert!(message.contains("`engine.modle`") && message.contains("`workload.laod`"), "{message}");
    let message = refusal(&env(&[("DUALPOOL_WORKLOAD__LOAD", "7"), ("DUALPOOL_RUN__BUDGET_S", "0")]));
    assert!(message.contains("`workload.load` is 7") && message.contains("`run.budget_s` is 0"), "{message}");
}

#[test]
fn a_file_that_is_missing_or_broken_is_named() {
    let missing = Sources { file: Some("/nonexistent/my.toml".into()), ..bare() };
    let error = config::load(&missing).unwrap_err();
    assert!(matches!(&error, ConfigError::Unreadable { .. }) && error.to_string().contains("/nonexistent/my.toml"), "{error}");

    let folder = folder_with("[engine\n");
    let error = config::load(&in_folder(folder.path())).unwrap_err();
    assert!(matches!(&error, ConfigError::Syntax { .. }) && error.to_string().contains("line 1"), "{error}");
}

#[test]
fn values_of_the_wrong_type_are_refused() {
    refuses("workload.long_prompt_tokens", "-1", &["is -1", "at least 1"]);
    refuses("workload.long_prompt_tokens", "many", &["is \"many\"", "whole number"]);
    refuses("workload.long_prompt_tokens", "1.5", &["is 1.5"]);
    refuses("workload.long_prompt_tokens", "5000000000", &["is 5000000000"]);
    refuses("run.exact", "yes", &["is \"yes\"", "true or false"]);
    refuses("pools.prefill_gpus", "a", &["[\"a\"]"]);
    refuses("pools.device", "tpu", &["is \"tpu\"", "auto, cpu, gpu, virtual"]);
    refuses("workload.mix", "odd", &["is \"odd\"", "balanced, decode_heavy, long_context, burst"]);
}

#[test]
fn impossible_values_are_refused() {
    for key in [
        "engine.max_model_len",
        "engine.kv_cache_mib",
        "engine.max_num_seqs",
        "engine.max_num_batched_tokens",
        "engine.start_timeout_s",
        "router.max_in_flight",
        "router.prefill_ctx_thresh",
        "kv.lease_ms",
        "workload.long_prompt_tokens",
        "workload.short_prompt_tokens",
        "workload.max_tokens",
        "run.search_budget_s",
        "telemetry.sample_ms",
    ] {
        refuses(key, "0", &["is 0", "at least 1"]);
    }
    for key in ["objectives.ttft_short_ms", "objectives.ttft_long_ms", "objectives.itl_ms"] {
        refuses(key, "-1", &["over 0", "0 to measure it"]);
        refuses(key, "inf", &["over 0"]);
    }
    refuses("objectives.ttft_slack", "0", &["over 0"]);
    refuses("objectives.ttft_ms", "-1", &["over 0", "0 to go by"]);
    refuses("router.admission.queue_max", "100001", &["from 0 to 100000"]);
    refuses("router.admission.patience_ms", "5,4,6", &["three whole numbers", "at least the one before it"]);
    refuses("router.admission.patience_ms", "5,6", &["three whole numbers"]);
    refuses("router.admission.window", "tcp", &["off, aimd"]);
    refuses("router.admission.window_tokens_max", "100", &["at least router.admission.window_tokens_min"]);
    refuses("router.admission.window_cut", "1", &["under 1"]);
    refuses("router.admission.reject", "always", &["off, naive, predictive"]);
    refuses("router.admission.reject_over", "1,0.9,inf", &["at most the one before it"]);
    for load in ["0", "-0.5", "1.6", "NaN"] {
        refuses("workload.load", load, &["over 0, at most 1.5"]);
    }
    refuses("workload.rate", "-1", &["requests per second"]);
    refuses("engine.gpu_memory_utilization", "1.1", &["at most 1"]);
    refuses("engine.dtype", "int3", &["bfloat16"]);
    refuses("engine.block_size", "48", &["multiple of 32"]);
    refuses("engine.model", "", &["folder"]);
    refuses("telemetry.log", "dualpool=loud", &["filter"]);
    refuses("run.budget_s", "0", &["4m"]);
    refuses("run.budget_s", "4x", &["4m"]);
    refuses("run.repetition_requests", "3", &["at least 12"]);
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    refuses("workload.long_prompt_tokens", "4600", &["at most 4576", "engine.max_model_len (4608)"]);
    refuses("workload.max_tokens", "5000", &["less than engine.max_model_len (4608)"]);
    refuses("workload.prefill_burst", "100000", &["at most 100000 requests together", "make 100096"]);
    refuses("workload.short_prompt_tokens", "2000", &["workload.long_prompt_tokens (1024)"]);
    refuses("engine.max_num_batched_tokens", "63", &["engine.max_num_seqs (64)"]);
    refuses("engine.block_size", "4096", &["engine.max_num_batched_tokens"]);
}

#[test]
fn settings_from_a_program_are_checked_as_those_of_a_user() {
    Settings::default().check().unwrap();
    let mut settings = Settings::default();
    settings.objectives.itl_ms = -5.0;
    settings.run.arms.push("magic".into());
    let message = settings.check().unwrap_err().to_string();
    assert!(message.contains("`objectives.itl_ms` is -5"), "{message}");
    settings.objectives.itl_ms = 5.0;
    assert!(settings.check().unwrap_err().to_string().contains("magic"));
    // Which devices there are is not known here.
    settings = Settings::default();
    settings.pools.decode_gpus = vec![7];
    settings.check().unwrap();
}

#[test]
fn costs_are_of_all_engines_or_of_none() {
    refuses("router.cost_per_hour", "4.0", &["[4.0]", "each of the 2 engines"]);
    refuses("router.cost_per_hour", "4.0,-1.0", &["at least 0"]);
    let loaded = load(&env(&[("DUALPOOL_ROUTER__COST_PER_HOUR", "4.0,1")]));
    assert_eq!(loaded.settings.router.cost_per_hour, [4.0, 1.0]);
}

#[test]
fn arms_are_known_and_named_once() {
    refuses("run.arms", "dual_pool,dual_poll", &["dual_poll", "shared_tuned"]);
    refuses("run.arms", "dual_pool,dual_pool", &["each once"]);
    refuses("run.arms", "", &["at least one"]);
}

#[test]
fn pools_need_devices_of_their_own() {
    refuses("pools.prefill_gpus", "", &["[]", "at least one device"]);
    refuses("pools.prefill_gpus", "0,0", &["each once"]);
    refuses("pools.decode_gpus", "0", &["any but 0", "core set of its own"]);
    refuses("pools.decode_gpus", "7", &["indices from 0 to 1"]);

    let one_gpu = |share: &str| Sources {
        gpus: 1,
        flags: vec![flag("--decode-gpus", "pools.decode_gpus", "0"), flag("--share", "engine.gpu_memory_utilization", share)],
        ..bare()
    };
    assert!(refusal(&one_gpu("0.85")).contains("at most 0.5 while GPU 0"));
    load(&one_gpu("0.5"));
}

#[test]
fn every_setting_says_what_it_allows() {
    for (key, value) in values(&Settings::default()) {
        let (wrong, shown) = match value {
            serde_json::Value::Array(_) => ("x".to_string(), "x"),
            serde_json::Value::String(_) => continue,
            _ => ("x".to_string(), "\"x\""),
        };
        if key != "run.arms" {
            refuses(&key, &wrong, &[shown, "allowed: "]);
        } else {
            refuses(&key, &wrong, &["auto"]);
        }
    }
}
