//! The schemas of all artifacts in `docs/schemas`, made from the very types that the files are written from.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use dualpool_kv::{COPY_COSTS_SCHEMA, CopyCosts};
use dualpool_report::Overview;
use dualpool_report::simulated::{SIMULATION_SCHEMA, Simulated, SimulatedRequest};
use dualpool_types::artifact::{RUN_SCHEMA_VERSION, RunInfo, Summary};
use dualpool_types::records::{NoteRecord, RequestRecord, Sample};
use dualpool_types::topology::{self, Topology};

use crate::noise::{NOISE_SCHEMA, Noise};
use crate::targets::engine_timing::{ENGINE_TIMING_SCHEMA, EngineTiming};
use crate::targets::migration_cost::{MIGRATION_COST_SCHEMA, MigrationCost};
use crate::targets::sim_fidelity::{SIM_FIDELITY_SCHEMA, SimFidelity};
use crate::{expectations, profile};

const WRITES: &str = "UPDATE_DOCS=1 cargo test -p dualpool-bench schemas";

/// By the name of the file.
fn all() -> [(&'static str, Value); 16] {
    [
        document::<RunInfo>("run.json", RUN_SCHEMA_VERSION),
        lines::<RequestRecord>("requests.jsonl", RUN_SCHEMA_VERSION),
        lines::<Sample>("samples.jsonl", RUN_SCHEMA_VERSION),
        lines::<NoteRecord>("decisions.jsonl", RUN_SCHEMA_VERSION),
        document::<Summary>("summary.json", RUN_SCHEMA_VERSION),
        document::<Overview>("workloads.json", RUN_SCHEMA_VERSION),
        document::<profile::Profile>("profile.json", profile::VERSION),
        document::<Simulated>("simulation.json", SIMULATION_SCHEMA),
        lines::<SimulatedRequest<'_>>("simulated_requests.jsonl", SIMULATION_SCHEMA),
        document::<Topology>("topology.json", topology::SCHEMA_VERSION),
        document::<MigrationCost>("migration_cost.json", MIGRATION_COST_SCHEMA),
        document::<CopyCosts>("calibration.json", COPY_COSTS_SCHEMA),
        document::<EngineTiming>("engine_timing.json", ENGINE_TIMING_SCHEMA),
        document::<Noise>("noise.json", NOISE_SCHEMA),
        document::<SimFidelity>("sim_fidelity.json", SIM_FIDELITY_SCHEMA),
        document::<expectations::Book>("expectations.json", expectations::SCHEMA),
    ]
}

/// Of a file that is one JSON document, which says its version.
fn document<T: JsonSchema>(file: &'static str, version: u32) -> (&'static str, Value) {
    let mut schema = schema::<T>(format!("{file} of dualpool, version {version}"));
    schema["properties"]["schema_version"]["const"] = version.into();
    (file, schema)
}

/// Of each line of a file, whose version stands in a document beside it.
fn lines<T: JsonSchema>(file: &'static str, version: u32) -> (&'static str, Value) {
    (file, schema::<T>(format!("a line of {file} of dualpool, version {version}")))
}

fn schema<T: JsonSchema>(title: String) -> Value {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    let extended = extended(&schema);
    if let Some(definitions) = schema.get_mut("$defs").and_then(Value::as_object_mut) {
        definitions.iter_mut().for_each(|(name, definition)| finish(definition, extended.contains(name)));
    }
    finish(&mut schema, false);
    schema["title"] = title.into();
    schema["$comment"] = format!("Made from the types in the code: `{WRITES}` writes this file.").into();
    schema
}

/// Definitions that others add keys to, so that they cannot say themselves that there are no more.
fn extended(schema: &Value) -> HashSet<String> {
    let mut names: HashSet<String> = children(schema).flat_map(extended).collect();
    if let (Some(name), Some(_)) = (schema["$ref"].as_str(), schema.get("properties")) {
        names.insert(name.trim_start_matches("#/$defs/").to_string());
    }
    names
}

/// Allows an object no keys but its own, unless it is a part of one that says so, and keeps of a schema what is of use to a reader of
/// files: descriptions without the line ends of the code, and no defaults, which are for files that lack a key.
fn finish(schema: &mut Value, part: bool) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("default");
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    let has_keys = object.contains_key("properties");
    let is_composed = COMPOSING.iter().any(|keyword| object.contains_key(*keyword)) || object.contains_key("$ref");
    if has_keys && !part {
        object.insert(if is_composed { "unevaluatedProperties" } else { "additionalProperties" }.into(), false.into());
    }
    for keyword in COMPOSING {
        let parts = object.get_mut(keyword).and_then(Value::as_array_mut).into_iter().flatten();
        parts.for_each(|schema| finish(schema, part || has_keys));
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(schema) = object.get_mut(keyword) {
            finish(schema, false);
        }
    }
    let required = object.get("required").cloned().unwrap_or_default();
    let required = |key: &str| required.as_array().is_some_and(|keys| keys.iter().any(|name| name == key));
    for (key, schema) in object.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        finish(schema, false);
        if !required(key) {
            never_null(schema);
        }
    }
}

/// For a key that is left out where it has no value.
fn never_null(schema: &mut Value) {
    if let Some([kind, null]) = schema["type"].as_array().map(Vec::as_slice)
        && null == "null"
    {
        schema["type"] = kind.clone();
    }
    if let Some([Value::Object(kind), null]) = schema["anyOf"].as_array().map(Vec::as_slice)
        && null["type"] == "null"
    {
        let kind = kind.clone();
        let object = schema.as_object_mut().expect("it has a key");
        object.remove("anyOf");
        object.extend(kind);
    }
}

/// Keywords that make a schema of several.
const COMPOSING: [&str; 3] = ["allOf", "anyOf", "oneOf"];

fn children(schema: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match schema {
        Value::Object(object) => Box::new(object.values()),
        Value::Array(list) => Box::new(list.iter()),
        _ => Box::new(std::iter::empty()),
    }
}

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas").join(file).with_extension("schema.json")
}

#[test]
fn the_schemas_are_those_of_the_types_that_are_written() {
    for (file, schema) in all() {
        let path = path(file);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "{} is stale: `{WRITES}` writes it anew", path.display());
    }
}

#[test]
fn every_key_is_described_and_every_description_is_a_sentence() {
    fn sentences(at: &str, schema: &Value) {
        if let Some(text) = schema["description"].as_str() {
            let starts = text.starts_with(|c: char| c.is_uppercase() || "`|".contains(c));
            assert!(starts && text.ends_with(['.', ')']), "{at}: {text}");
        }
        children(schema).for_each(|child| sentences(at, child));
    }
    for (file, schema) in all() {
        sentences(file, &schema);
        let definitions = schema["$defs"].as_object().into_iter().flat_map(|definitions| definitions.values());
        let keys = definitions.chain([&schema]).filter_map(|schema| schema["properties"].as_object()).flatten();
        let silent: Vec<_> = keys.filter(|(_, property)| property.get("description").is_none()).map(|(key, _)| key).collect();
        assert!(silent.is_empty(), "{file} does not say what {silent:?} are");
    }
}
