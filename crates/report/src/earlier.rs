//! Folders of earlier versions, in the words of today: the one place that knows what keys, names and files were called.
//!
//! Version 1 of a run had other arms by the names of today's; up to version 2 keys had other names, and so had those of a simulation.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use dualpool_types::artifact::{RUN_SCHEMA_VERSION, RunInfo, Summary};
use dualpool_types::name_since_version_1;
use dualpool_types::records::{EngineSample, RequestRecord};

use super::LoadError;
use super::load::document;
use super::simulated::{SIMULATION, SIMULATION_SCHEMA};

/// What `workloads.json` was called.
pub(super) const PARTS_FILE: &str = "parts.json";

#[derive(Deserialize)]
pub(super) struct Parts {
    pub parts: Vec<String>,
}

/// Of files that do not name theirs.
fn first_version() -> u32 {
    1
}

#[derive(Deserialize)]
struct Version {
    #[serde(default = "first_version")]
    schema_version: u32,
}

/// How the JSON of one file is brought into the words of today.
pub type Translation = fn(&mut Value);

/// The translation of this file in a folder of an earlier version; none where there is nothing to translate.
pub fn translation(dir: &Path, file: &str) -> Result<Option<Translation>, LoadError> {
    Ok(if is_earlier(dir)? { of_file(file) } else { None })
}

/// A value out of a file's text.
pub fn parse<T: DeserializeOwned>(text: &[u8], translation: Option<Translation>) -> serde_json::Result<T> {
    let Some(translate) = translation else { return serde_json::from_slice(text) };
    let mut value = serde_json::from_slice(text)?;
    translate(&mut value);
    serde_json::from_value(value)
}

/// A folder has a run or a simulation; one with neither is taken as it is.
fn is_earlier(dir: &Path) -> Result<bool, LoadError> {
    let mend = "repeat the run, or use the dualpool version that wrote it";
    for (file, today) in [("run.json", RUN_SCHEMA_VERSION), (SIMULATION, SIMULATION_SCHEMA)] {
        if let Some(Version { schema_version }) = document(&dir.join(file), mend)? {
            return Ok(schema_version < today);
        }
    }
    Ok(false)
}

fn of_file(file: &str) -> Option<Translation> {
    match file {
        "requests.jsonl" => Some(request),
        "samples.jsonl" => Some(|sample| rename(sample, "moves_in", "transfers_in")),
        "decisions.jsonl" => Some(note),
        "summary.json" => Some(summary),
        SIMULATION => Some(simulation),
        _ => None,
    }
}

fn request(record: &mut Value) {
    for handoff in items(record, "handoffs") {
        rename(handoff, "runs", "byte_ranges");
        reword(handoff, "kind", "prefill", "handoff");
        reword(handoff, "kind", "live", "live_migration");
    }
}

fn note(record: &mut Value) {
    rename(record, "split", "prefill_only");
    reword(record, "why", "pays", "saves_time");
    if record["policy"] == "cache_aware" {
        for terms in items(record, "candidates").filter_map(|candidate| candidate.get_mut("terms")) {
            rename(terms, "load", "demand_us");
            rename(terms, "depth", "queue_depth");
            rename(terms, "processed", "prompt_tokens_sent");
        }
    }
}

fn summary(document: &mut Value) {
    for stages in items(document, "arms").filter_map(|arm| arm.pointer_mut("/live_migrations/stages_ms_p50")) {
        rename(stages, "way_in", "submit");
        rename(stages, "way_out", "deliver");
    }
    // Nothing was planned then, and every repetition counted.
    let repetitions = document["repetitions"].clone();
    for comparison in items(document, "comparisons") {
        reword(comparison, "verdict", "no_difference_shown", "undecided");
        if let Some(comparison) = comparison.as_object_mut() {
            comparison.entry("planned").or_insert(false.into());
            comparison.entry("repetitions").or_insert(repetitions.clone());
        }
    }
}

fn simulation(document: &mut Value) {
    rename(document, "schema", "schema_version");
    for arm in items(document, "arms") {
        rename(arm, "good", "within_objectives");
        if let Some(cost) = arm.get_mut("cost") {
            rename(cost, "good_requests_per_unit", "requests_within_objectives_per_unit");
        }
    }
}

fn items<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

fn rename(value: &mut Value, old: &str, new: &str) {
    if let Some(object) = value.as_object_mut()
        && let Some(value) = object.remove(old)
    {
        object.insert(new.into(), value);
    }
}

/// Replaces a value that is this word.
fn reword(value: &mut Value, key: &str, old: &str, new: &str) {
    if let Some(word) = value.get_mut(key).filter(|word| *word == old) {
        *word = new.into();
    }
}

/// Names the arms of a run of version 1 as they are called since.
pub(super) fn name_arms(
    run: &mut RunInfo,
    mut summary: Option<&mut Summary>,
    requests: &mut [RequestRecord],
    samples: &mut [EngineSample],
) {
    if run.schema_version > 1 {
        return;
    }
    if let Some(summary) = &mut summary {
        let identical = std::mem::take(&mut summary.identical_requests);
        summary.identical_requests = identical.into_iter().map(|(arm, of)| (name_since_version_1(&arm), of)).collect();
    }
    for name in arm_names(run, summary, requests, samples) {
        *name = name_since_version_1(name);
    }
}

/// Every place that names an arm, but for keys.
fn arm_names<'a>(
    run: &'a mut RunInfo,
    summary: Option<&'a mut Summary>,
    requests: &'a mut [RequestRecord],
    samples: &'a mut [EngineSample],
) -> impl Iterator<Item = &'a mut String> {
    let expected = run.expected.iter_mut().flat_map(|expected| &mut expected.ratios);
    let expected = expected.flat_map(|ratio| [&mut ratio.baseline, &mut ratio.candidate]);
    let of_summary = summary.into_iter().flat_map(|summary| {
        let compared = summary.comparisons.iter_mut().flat_map(|pair| [&mut pair.baseline, &mut pair.candidate]);
        summary.arms.iter_mut().map(|arm| &mut arm.name).chain(compared)
    });
    let of_run = run.arms.iter_mut().map(|arm| &mut arm.name).chain(expected);
    let recorded = requests.iter_mut().map(|request| &mut request.arm).chain(samples.iter_mut().map(|sample| &mut sample.arm));
    of_run.chain(of_summary).chain(recorded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::{explain, table};
    use crate::fixture;
    use crate::simulated::load_simulation;
    use crate::{Overview, load};

    /// Rewrites a file of today as the version before wrote it.
    fn age(path: &Path, words: &[(&str, &str)]) {
        let text = std::fs::read_to_string(path).unwrap();
        let aged = words.iter().fold(text, |text, (new, old)| {
            assert!(text.contains(new), "{new} is not in {}", path.display());
            text.replace(new, old)
        });
        std::fs::write(path, aged).unwrap();
    }

    fn folder_of_version_2() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut today = fixture::small();
        let moved = today.requests.iter_mut().flat_map(|request| &mut request.handoffs).next().unwrap();
        moved.kind = dualpool_types::records::HandoffKind::LiveMigration;
        today.samples[0].transfers_in = 7;
        fixture::write(&today, dir.path());
        let file = |name: &str| dir.path().join(name);
        age(&file("run.json"), &[("\"schema_version\": 3", "\"schema_version\": 2")]);
        let kinds = [("\"handoff\"", "\"prefill\""), ("\"live_migration\"", "\"live\"")];
        age(&file("requests.jsonl"), &[&kinds[..], &[("byte_ranges", "runs")]].concat());
        age(&file("samples.jsonl"), &[("transfers_in", "moves_in")]);
        age(&file("summary.json"), &[("\"schema_version\": 3,", ""), ("\"submit\"", "\"way_in\""), ("\"deliver\"", "\"way_out\"")]);
        age(&file("summary.json"), &[("\"undecided\"", "\"no_difference_shown\""), ("\"planned\": false,", "")]);
        dir
    }

    #[test]
    fn a_run_of_the_version_before_is_read_as_one_of_today() {
        let (old, new) = (folder_of_version_2(), tempfile::tempdir().unwrap());
        let read = load(old.path()).unwrap();
        let mut today = read.clone();
        today.run.schema_version = RUN_SCHEMA_VERSION;
        fixture::write(&today, new.path());
        let again = load(new.path()).unwrap();
        assert_eq!((&again.requests, &again.samples), (&read.requests, &read.samples));
        assert!(read.requests.iter().flat_map(|request| &request.handoffs).all(|handoff| handoff.byte_ranges > 0));
        let live = dualpool_types::records::HandoffKind::LiveMigration;
        assert_eq!(read.requests.iter().flat_map(|request| &request.handoffs).filter(|handoff| handoff.kind == live).count(), 1);
        assert_eq!(read.samples[0].transfers_in, 7);
        assert_eq!(read.summary.unwrap().schema_version, 1, "it did not say");
    }

    #[test]
    fn arms_of_version_1_have_the_names_of_today() {
        let dir = folder_of_version_2();
        age(&dir.path().join("run.json"), &[("\"schema_version\": 2", "\"schema_version\": 1"), ("dual_pool\",", "auto\",")]);
        age(&dir.path().join("requests.jsonl"), &[("\"dual_pool\"", "\"auto\"")]);
        age(&dir.path().join("summary.json"), &[("\"dual_pool\"", "\"auto\"")]);
        let read = load(dir.path()).unwrap();
        let found = |name: &str| read.requests.iter().filter(|request| request.arm == name).count();
        assert_eq!((found("best_found"), found("auto")), (144, 0));
        let summary = read.summary.unwrap();
        assert!(summary.arms.iter().any(|arm| arm.name == "best_found") && summary.identical_requests.contains_key("best_found"));
    }

    #[test]
    fn a_run_of_several_workloads_has_them_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(PARTS_FILE), r#"{"parts": ["mixed", "trace"]}"#).unwrap();
        assert!(Overview::is_in(dir.path()));
        assert_eq!(Overview::read(dir.path()).unwrap().unwrap().workloads, ["mixed", "trace"]);
    }

    const SIMULATION_1: &str = r#"{
        "schema": 1, "simulated": true, "dualpool": "0.1.0", "scenario": "1P1D", "about": "", "workload": "", "trace": null, "seed": 1,
        "decode_cost_penalty": 1.0, "objectives": {"ttft_ms": 1.0, "itl_ms": 1.0}, "router": {},
        "arms": [{
            "name": "warm", "policy": "cache_aware", "requests": 4, "done": 4, "rejected": {}, "failed": {}, "good": 3,
            "goodput_share": 0.75, "goodput_rps": 1.0, "span_s": 3.0, "output_tokens": 9, "output_tokens_per_s": 3.0,
            "ttft_ms": {"p50": 1.0, "p95": 1.0, "p99": 1.0, "max": 1.0}, "ttft_ms_by_pool": {},
            "itl_ms": {"p50": 1.0, "p95": 1.0, "p99": 1.0, "max": 1.0}, "e2e_ms": {"p50": 1.0, "p95": 1.0, "p99": 1.0, "max": 1.0},
            "queue_depth_mean": {"prefill": null, "decode": null, "shared": 1.0}, "queue_depth": {}, "prefix_hit_share": null,
            "handoffs": 0, "recomputed": 0, "notes": {}, "engines": [],
            "cost": {"per_hour": 2.0, "per_million_output_tokens": null, "good_requests_per_unit": 1800.0}
        }]
    }"#;

    const DECISIONS: &str = r#"{"arm":"warm","repetition":0,"at_us":5,"kind":"placed","request":0,"policy":"cache_aware","prompt_tokens":9,"outputs":4,"from":null,"chosen":1,"split":true,"candidates":[{"engine":1,"score":5.0,"cached_tokens":0,"terms":{"cached":0.0,"load":5.0,"depth":1.0,"processed":3.0}},{"engine":0,"score":9.0,"cached_tokens":0,"terms":{"cached":0.0,"load":9.0,"depth":2.0,"processed":3.0}}]}
{"arm":"warm","repetition":0,"at_us":9,"kind":"migrated","request":0,"from":1,"to":0,"tokens":12,"why":"pays"}
"#;

    #[test]
    fn a_simulation_of_the_version_before_is_read_and_explained() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(SIMULATION), SIMULATION_1).unwrap();
        std::fs::write(dir.path().join("decisions.jsonl"), DECISIONS).unwrap();
        let fate = r#"{"arm": "warm", "index": 0, "prompt_tokens": 9, "cached_tokens": 0, "engines": [1], "good": true, "kv_moves": 0, "outcome": {"status": "done"}}"#;
        std::fs::write(dir.path().join("requests.jsonl"), fate.to_owned() + "\n").unwrap();
        let simulated = load_simulation(dir.path()).unwrap().unwrap();
        assert_eq!(simulated.arms[0].within_objectives, 3);
        assert_eq!(simulated.arms[0].cost.unwrap().requests_within_objectives_per_unit, Some(1800.0));
        let text = table(&explain(dir.path()).unwrap()[0]);
        for words in ["that only prefill there", "demand_us", "queue_depth", "it saves time"] {
            assert!(text.contains(words), "`{words}` is not in\n{text}");
        }
        assert!(!text.contains("what became of requests is not known"), "{text}");
    }
}
