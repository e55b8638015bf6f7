//! Whether artifacts are what `docs/schemas` promises.

use std::path::Path;

use serde_json::Value;

use super::program::root;

fn validator(file: &str) -> Option<jsonschema::Validator> {
    let path = root().join("docs/schemas").join(file).with_extension("schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).unwrap();
    Some(jsonschema::validator_for(&schema).unwrap())
}

fn violations_of(schema: &jsonschema::Validator, value: &Value) -> Vec<String> {
    schema.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// What a document, or a line, of this file breaks of its schema.
pub fn violations(file: &str, value: &Value) -> Vec<String> {
    violations_of(&validator(file).unwrap_or_else(|| panic!("{file} has no schema")), value)
}

/// Checks all artifacts in a folder; returns their names.
#[track_caller]
pub fn all_fit(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        let Some(schema) = validator(&name).filter(|_| name.contains(".json")) else { continue };
        let text = std::fs::read_to_string(&path).unwrap();
        for value in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            assert_eq!(violations_of(&schema, &value.unwrap()), Vec::<String>::new(), "{}", path.display());
        }
        names.push(name);
    }
    names.sort();
    names
}
