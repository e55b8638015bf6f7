//! `dualpool simulate` and `dualpool plot` as a user runs them. Small traffic: a fleet's behaviour is `sim`'s to test.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::program::{dualpool, prints, root, text};
use crate::support::schemas;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// What a run says that must be refused as a wrong call.
#[track_caller]
fn refused(folder: &Path, args: &[&str]) -> String {
    let output = dualpool(folder, args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

fn trace(name: &str) -> PathBuf {
    root().join("tests/data/traces").join(name)
}

fn simulation(folder: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join("simulation.json")).unwrap()).unwrap()
}

/// A scenario file: a built-in one with a part of it replaced.
fn scenario(folder: &Path, from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(root().join("crates/sim/src/scenario/xpyd.toml")).unwrap();
    assert!(text.contains(from), "{from}");
    let path = folder.join("mine.toml");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    path.display().to_string()
}

#[test]
fn every_built_in_serves_all_its_requests_in_both_modes() {
    let here = folder();
    for (i, scenario) in ["flagship_vs_mid", "mig_slices", "flip", "2P2D", "1p3d"].into_iter().enumerate() {
        let out = format!("out{i}");
        let table = prints(here.path(), &["simulate", "--scenario", scenario, "--requests", "60", "--out", &out]);
        assert!(table.starts_with("SIMULATED: figures of a model"), "{table}");
        let simulated = simulation(&here.path().join(&out));
        let arms = simulated["arms"].as_array().unwrap();
        assert_eq!(arms.iter().map(|arm| arm["name"].as_str().unwrap()).collect::<Vec<_>>(), ["baseline", "optimized"]);
        for arm in arms {
            assert_eq!((&arm["requests"], &arm["done"]), (&60.into(), &60.into()), "{scenario}");
            assert!(
                arm["ttft_ms"]["p95"].as_f64().unwrap() > 0.0 && arm["cost"]["per_million_output_tokens"].as_f64().unwrap() > 0.0
            );
            assert_eq!(arm["recomputed"], 0, "{scenario}");
        }
        let requests = std::fs::read_to_string(here.path().join(&out).join("simulated_requests.jsonl")).unwrap();
        assert_eq!(requests.lines().count(), 120);
        let fit = schemas::all_fit(&here.path().join(&out));
        assert!(fit.ends_with(&["simulated_requests.jsonl".into(), "simulation.json".into()]), "{fit:?}");
    }
}

#[test]
fn one_seed_gives_the_same_bytes_and_another_seed_others() {
    let here = folder();
    let run =
        |seed: &str| prints(here.path(), &["simulate", "--scenario", "1P1D", "--requests", "80", "--log-json", "--seed", seed]);
    let first = run("7");
    assert!(first == run("7"), "two runs of seed 7 differ");
    assert!(first != run("8"));
    let lines: Vec<Value> = first.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["simulated"] == true), "every line says what it is");
    let (last, others) = lines.split_last().unwrap();
    assert_eq!((&last["kind"], last["seed"].as_u64()), (&"summary".into(), Some(7)));
    let requests = others.iter().filter(|line| line["kind"] == "request");
    assert_eq!(requests.clone().count(), 160);
    // The summary counts what the lines say.
    for arm in last["arms"].as_array().unwrap() {
        let good = requests.clone().filter(|line| line["arm"] == arm["name"] && line["within_objectives"] == true).count();
        assert_eq!(arm["within_objectives"], good);
    }
}

#[test]
fn a_simulation_is_a_target_like_another() {
    let here = folder();
    let flags = ["--scenario", "1P1D", "--requests", "40", "--log-json", "--seed", "3"];
    let as_command = prints(here.path(), &[&["simulate"][..], &flags].concat());
    assert!(as_command == prints(here.path(), &[&["run", "simulation"][..], &flags].concat()), "the same bytes by both names");
    let said = refused(here.path(), &["run", "--quick", "simulation"]);
    assert!(said.contains("simulation has flags of its own") && said.contains("hint: "), "{said}");
    let said = refused(here.path(), &["run", "simulation", "--quick"]);
    assert!(said.contains("--quick"), "{said}");
}

#[test]
fn policies_and_modes_are_arms() {
    let here = folder();
    let args = ["simulate", "--requests", "20", "--mode", "baseline", "--policy", "least_load,dual_pool", "--out", "out"];
    prints(here.path(), &args);
    let simulated = simulation(&here.path().join("out"));
    let arms: Vec<(&str, &str)> = simulated["arms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arm| (arm["name"].as_str().unwrap(), arm["policy"].as_str().unwrap()))
        .collect();
    assert_eq!(arms, [("baseline", "round_robin"), ("least_load", "least_load"), ("dual_pool", "dual_pool")]);
    assert!(refused(here.path(), &["simulate", "--policy", "best"]).contains("there are round_robin, least_load"));
    let said = refused(here.path(), &args);
    assert!(said.contains("the run folder out already holds a run"), "{said}");
}

#[test]
fn a_wrong_key_of_a_scenario_is_named_with_its_line_and_the_known_ones() {
    let here = folder();
    let wrong = |from, to| refused(here.path(), &["simulate", "--scenario", &scenario(here.path(), from, to)]);
    let said = wrong("cost_per_hour = 4.0\nkv_blocks", "cost_per_hr = 4.0\nkv_blocks");
    assert!(said.contains("mine.toml, line ") && said.contains("unknown field `cost_per_hr`"), "{said}");
    assert!(said.contains("`cost_per_hour`"), "{said}");
    let said = wrong("kv_blocks = 24800", "kv_blocks = 4");
    assert!(said.contains("tier `prefill`: kv_blocks is 4") && said.contains("at least 8192 blocks"), "{said}");
    let said = wrong("role = \"decode\"", "role = \"prefill\"");
    assert!(said.contains("needs a decode pool"), "{said}");
    let said = wrong("max_in_flight = 20000", "max_in_fligth = 20000");
    assert!(
        said.contains("unknown setting `router.max_in_fligth`") && said.contains("did you mean `router.max_in_flight`"),
        "{said}"
    );
    let said = wrong("[objectives]", "[faults]\nfailed_copies = 2\n[objectives]");
    assert!(said.contains("faults.failed_copies is 2; it must be a share from 0 to 1"), "{said}");
    let said = refused(here.path(), &["simulate", "--scenario", "mig_slice"]);
    assert!(said.contains("there is no scenario `mig_slice`; built in are flagship_vs_mid, mig_slices"), "{said}");
}

#[test]
fn flags_that_cannot_be_meant_are_refused() {
    let here = folder();
    for (args, words) in [
        (&["--arrival-rate", "0"][..], "traffic: rate is 0; it must be from 0.000001"),
        (&["--burst-factor", "-1"], "traffic: burst_factor is -1"),
        (&["--requests", "0"], "traffic: requests is 0"),
        (&["--prompt-tokens", "200000"], "must be at most 131072 tokens"),
        (&["--prompt-tokens", "many"], "such as 1000:0.8:16:8000"),
        (&["--decode-cost-penalty", "0"], "--decode-cost-penalty is 0; it must be a factor over 0"),
        (&["--slo-itl-ms", "-5"], "objectives.itl_ms is -5"),
        (&["--flip-at", "0"], "--flip-at is 0; it must be seconds, over 0"),
        (&["--set", "engine.model=x"], "`engine.model` is none of the router's settings"),
        (&["--set", "router.max_in_flight=0"], "`router.max_in_flight` is 0 (from --set)"),
        (&["--replay-speed", "2"], "--trace"),
        (&["--trace", "nothing.csv"], "cannot open the trace nothing.csv"),
    ] {
        let said = refused(here.path(), &[&["simulate"], args].concat());
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert!(std::fs::read_dir(here.path()).unwrap().next().is_none(), "nothing is left behind");
}

#[test]
fn traces_of_all_formats_are_replayed_and_bad_rows_counted_and_named() {
    let here = folder();
    let replay = |file: &Path, out: &str| {
        let file = file.display().to_string();
        let args = ["simulate", "--mode", "optimized", "--trace", &file, "--limit", "40", "--replay-speed", "20", "--out", out];
        let table = prints(here.path(), &args);
        (table, simulation(&here.path().join(out)))
    };
    let (_, azure) = replay(&trace("azure-2023-conv-first-300.csv"), "azure");
    assert_eq!((&azure["trace"]["format"], &azure["trace"]["requests"]), (&"Azure LLM CSV".into(), &40.into()));
    assert_eq!(azure["arms"][0]["done"], 40);
    let (_, mooncake) = replay(&trace("mooncake-conversation-first-200.jsonl"), "mooncake");
    assert!(mooncake["arms"][0]["prefix_hit_share"].as_f64().unwrap() > 0.0, "its hash ids say what is shared");

    let path = here.path().join("own.jsonl");
    let good = |at| format!("{{\"at_ms\": {at}, \"prompt_tokens\": 300, \"output_tokens\": 20}}\n");
    std::fs::write(&path, good(0) + "no JSON\n" + &good(5) + "{\"at_ms\": 9, \"prompt_tokens\": 0, \"output_tokens\": 1}\n")
        .unwrap();
    let (table, own) = replay(&path, "own");
    assert_eq!((&own["trace"]["requests"], &own["trace"]["bad_rows"]), (&2.into(), &2.into()));
    for words in ["2 requests, 2 bad rows", "line 2: ", "line 4: prompt_tokens is 0"] {
        assert!(table.contains(words), "`{words}` is not in: {table}");
    }
}

#[test]
fn traffic_that_flips_has_long_prompts_before_and_long_answers_after() {
    let here = folder();
    let flags = ["--arrival-rate", "10", "--prompt-tokens", "900", "--output-tokens", "30", "--flip-at", "5", "--requests", "100"];
    let lines = prints(here.path(), &[&["simulate", "--mode", "baseline", "--log-json"], &flags[..]].concat());
    let requests = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|line| line["kind"] == "request");
    let mut seen = [0, 0];
    for line in requests {
        let after = usize::from(line["arrived_us"].as_u64().unwrap() >= 5_000_000);
        seen[after] += 1;
        let tokens = [&line["prompt_tokens"], &line["output_tokens"]].map(|tokens| tokens.as_u64().unwrap());
        assert_eq!(tokens, if after == 0 { [900, 30] } else { [30, 900] }, "{line}");
    }
    assert!(seen[0] > 20 && seen[1] > 20, "{seen:?}");
}

#[test]
fn what_tiers_cost_is_weighed() {
    let here = folder();
    let dear = "name = \"decode\"\ncount = 1\nrole = \"decode\"\ncost_per_hour = 9.0";
    let mine = scenario(here.path(), &dear.replace("9.0", "4.0"), dear);
    let served = |weight: &str, out: &str| {
        let weight = format!("router.score.cost={weight}");
        let rare = ["--policy", "score", "--requests", "40", "--arrival-rate", "0.001", "--set", &weight, "--out", out];
        prints(here.path(), &[&["simulate", "--scenario", &mine][..], &rare].concat());
        let engines = &simulation(&here.path().join(out))["arms"][0]["engines"];
        [0, 1].map(|engine| engines[engine]["output_tokens"].as_u64().unwrap())
    };
    let ([cheap, dear], [first, second]) = (served("1", "weighed"), served("0", "free"));
    assert!(cheap > 0 && dear == 0, "{cheap} tokens of the cheap engine, {dear} of the dear one");
    assert!(first > 0 && second > 0, "without a weight both serve: {first} and {second}");
    let said = refused(here.path(), &["simulate", "--set", "router.cost_per_hour=1,2"]);
    assert!(said.contains("cost what the scenario's tiers say"), "{said}");
    let mine = scenario(here.path(), "[router]", "[router]\ncost_per_hour = [1.0, 2.0]");
    assert!(refused(here.path(), &["simulate", "--scenario", &mine]).contains("router.cost_per_hour"));
}

/// An engine that decodes beside prompts takes longer for it, and one that only decodes does not.
#[test]
fn the_decode_cost_penalty_is_for_engines_that_prefill() {
    let here = folder();
    let itl = |penalty: &str, out: &str| {
        let args = ["simulate", "--scenario", "1P1D", "--requests", "60", "--decode-cost-penalty", penalty, "--out", out];
        prints(here.path(), &args);
        let simulated = simulation(&here.path().join(out));
        [0, 1].map(|arm| simulated["arms"][arm]["itl_ms"]["p50"].as_f64().unwrap())
    };
    let ([baseline, split], [slow_baseline, slow_split]) = (itl("1", "plain"), itl("3", "slow"));
    assert!(slow_baseline > 2.0 * baseline, "{baseline} ms, then {slow_baseline} ms");
    assert_eq!(split, slow_split);
}

#[test]
fn a_simulation_is_drawn_as_svg_and_png_and_reported_again() {
    let here = folder();
    let table = prints(here.path(), &["simulate", "--requests", "60", "--out", "a"]);
    prints(here.path(), &["simulate", "--requests", "60", "--scenario", "mig_slices", "--out", "b"]);
    let again = prints(here.path(), &["report", "a"]);
    assert!(table.starts_with(again.trim_end()), "{again}");

    prints(here.path(), &["plot", "a", "b", "--svg", "both.svg", "--png", "both.png"]);
    let svg = std::fs::read_to_string(here.path().join("both.svg")).unwrap();
    let tree = roxmltree::Document::parse(&svg).unwrap();
    let texts: Vec<&str> = tree.descendants().filter_map(|node| node.text()).collect();
    for words in ["a: baseline", "b: optimized", "TTFT p95, ms", "good requests per unit of cost"] {
        assert!(texts.contains(&words), "`{words}` is not in {texts:?}");
    }
    assert!(texts.iter().any(|text| text.starts_with("a: SIMULATED")));
    assert!(std::fs::read(here.path().join("both.png")).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(prints(here.path(), &["plot", "a"]).trim(), "a/plot.svg");
    let output = dualpool(here.path(), &["plot", "."]).output().unwrap();
    assert!(!output.status.success() && text(&output.stderr).contains("run.json"), "{}", text(&output.stderr));
}

/// An engine that dies in the middle loses nothing that was admitted.
#[test]
fn faults_are_part_of_a_scenario() {
    let here = folder();
    let faults = "[faults.engine_death]\nat = [{ engine = 1, at_ms = 1500 }]\n[objectives]";
    let mine = scenario(here.path(), "[objectives]", faults);
    prints(here.path(), &["simulate", "--scenario", &mine, "--requests", "60", "--mode", "baseline", "--out", "out"]);
    let arm = &simulation(&here.path().join("out"))["arms"][0];
    assert_eq!(arm["done"], 60);
    assert_eq!(arm["engines"][1]["died_s"], 1.5);
    assert_eq!(arm["engines"][0]["died_s"], Value::Null);
}
