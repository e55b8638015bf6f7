//! What the settings' own code says of them - doc comments, types, rules and defaults - by key: the reference in docs/settings.md, and the
//! words for values of the wrong type.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use dualpool_bench::Settings;
use dualpool_types::settings::{values, written};

use super::load::gpu_defaults;

const HEAD: &str = "# Settings\n
<!-- Made from the doc comments, rules and defaults in the code: `UPDATE_DOCS=1 cargo test --test config` writes this file. -->\n
`dualpool config` shows the value of each setting and where it comes from. Later ones win: defaults (some differ on GPUs), `dualpool.toml` or
the file of `--config`, environment variables, flags. `engine.block_size` stands in the file's table `[engine]`; its variable is
`DUALPOOL_ENGINE__BLOCK_SIZE`; `--set engine.block_size=64` sets what has no flag of its own (`dualpool run --help` lists those). A key that
does not exist is an error.\n";

/// What is known of a setting, or of a section of settings.
struct Entry {
    meaning: String,
    /// What its type allows, in words. None for a section.
    kind: Option<String>,
}

/// What is allowed for a setting, in words. None when there is no such setting.
pub(super) fn allowed(key: &str) -> Option<String> {
    Settings::allowed(key).or_else(|| entries().remove(key)?.kind)
}

/// All settings as Markdown: a table per section.
pub fn reference() -> String {
    let entries = entries();
    let (defaults, on_gpus) = (values(&Settings::default()), gpu_defaults());
    let mut text = HEAD.to_string();
    for (section, Entry { meaning, .. }) in entries.iter().filter(|(_, entry)| entry.kind.is_none()) {
        // Writing to a string does not fail.
        let _ =
            write!(text, "\n## `{section}`\n\n{}\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n", linked(meaning));
        for (key, Entry { meaning, kind }) in &entries {
            let Some(kind) = kind.as_ref().filter(|_| key.rsplit_once('.').is_some_and(|(table, _)| table == section)) else {
                continue;
            };
            let allowed = Settings::allowed(key).unwrap_or_else(|| kind.clone());
            let other = on_gpus.get(key).filter(|value| defaults.get(key) != Some(value));
            let other = other.map(|value| format!("; on GPUs `{}`", written(value))).unwrap_or_default();
            let default = defaults.get(key).map(written).unwrap_or_default();
            let _ = writeln!(text, "| `{key}` | `{default}`{other} | {allowed} | {} |", linked(meaning));
        }
    }
    text
}

/// Every setting and every section by its whole key.
fn entries() -> BTreeMap<String, Entry> {
    let generator = SchemaSettings::default().with(|settings| settings.inline_subschemas = true).into_generator();
    let mut entries = BTreeMap::new();
    walk("", generator.into_root_schema_for::<Settings>().as_value(), &mut entries);
    entries
}

fn walk(prefix: &str, schema: &Value, entries: &mut BTreeMap<String, Entry>) {
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let is_section = schema.get("properties").is_some();
        let meaning = schema.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
        walk(&key, schema, entries);
        entries.insert(key, Entry { meaning, kind: (!is_section).then(|| kind(schema)) });
    }
}

/// What a type allows, in words.
fn kind(schema: &Value) -> String {
    // Names with a doc comment of their own are schemas of their own.
    let constants = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten().filter_map(|one| {
        let listed = one.get("enum").and_then(Value::as_array).cloned();
        one.get("const").map(|name| vec![name.clone()]).or(listed)
    });
    let names: Vec<Value> = schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_else(|| constants.flatten().collect());
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
    if let [all @ .., last] = &names[..] {
        return format!("{} or {last}", all.join(", "));
    }
    let text = match schema.get("type").and_then(Value::as_str) {
        Some("boolean") => "true or false",
        Some("integer") => "a whole number of at least 0",
        Some("number") => "a number",
        Some("array") => "a list",
        _ => "text",
    };
    text.to_string()
}

/// Documents of this folder as links.
fn linked(text: &str) -> String {
    let link = |word: &str| {
        let parts = word.split_once("docs/").and_then(|(before, rest)| Some((before, rest.split_once(".md")?)));
        parts.map_or(word.to_string(), |(before, (name, after))| format!("{before}[{name}.md]({name}.md){after}"))
    };
    text.split(' ').map(link).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_and_section_is_explained_in_sentences() {
        let entries = entries();
        let known = values(&Settings::default());
        assert!(known.keys().all(|key| entries[key].kind.is_some()));
        for (key, entry) in &entries {
            assert_eq!(known.contains_key(key), entry.kind.is_some(), "{key}");
            let end = entry.meaning.chars().last();
            assert!(
                end.is_some_and(|c| ".)".contains(c)) && entry.meaning.starts_with(char::is_uppercase),
                "{key}: {}",
                entry.meaning
            );
            assert!(!entry.meaning.contains('|'), "{key} would break its table");
        }
    }

    #[test]
    fn types_say_what_they_allow() {
        assert_eq!(allowed("run.exact").as_deref(), Some("true or false"));
        assert_eq!(allowed("router.resumes_max").as_deref(), Some("a whole number of at least 0"));
        assert_eq!(allowed("pools.device").as_deref(), Some("auto, cpu, gpu or virtual"));
        assert_eq!(allowed("workload.arrivals").as_deref(), Some("all_upfront or poisson"));
        assert_eq!(allowed("run.search_budget_s").as_deref(), Some("a whole number of at least 1"));
        assert_eq!(allowed("run.magic"), None);
    }
}
