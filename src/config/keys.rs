//! The keys of all settings, and values given as text.

use figment::value::{Dict, Num, Value};
use serde::Serialize;
use serde_json::Value as Json;

use dualpool_types::settings::{flatten, written};

/// A table with this one leaf.
pub(super) fn nested(key: &str, value: Value) -> Dict {
    let (name, value) = match key.split_once('.') {
        Some((name, rest)) => (name, Value::from(nested(rest, value))),
        None => (key, value),
    };
    Dict::from([(name.to_string(), value)])
}

/// Text from the environment or a flag as a value of the default's type. A list is `a,b` (or TOML's `["a", "b"]`). What does not
/// parse stays text, for which the settings' own types have an error.
pub(super) fn typed(default: &Json, text: &str) -> Value {
    let text = text.trim();
    match default {
        Json::String(_) => Value::from(text),
        Json::Array(elements) => {
            let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
            let parts = inner.split(',').map(|part| part.trim().trim_matches(['"', '\''])).filter(|part| !part.is_empty());
            // A list that is empty by default does not say what it is of: numbers, where they read as such.
            let element = elements.first().cloned().unwrap_or_else(|| Json::from(0));
            Value::from(parts.map(|part| typed(&element, part)).collect::<Vec<_>>())
        }
        Json::Bool(_) => text.parse::<bool>().map_or_else(|_| Value::from(text), Value::from),
        _ => text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<f64>().map(Value::from))
            .unwrap_or_else(|_| Value::from(text)),
    }
}

/// A value of a layer as the user wrote it, for messages.
pub(super) fn shown(value: &Value) -> String {
    match value {
        // JSON has no such numbers.
        Value::Num(_, Num::F64(number)) if !number.is_finite() => format!("{number:?}"),
        other => written(&as_json(other)),
    }
}

/// The keys of a layer.
pub(super) fn keys(dict: &Dict) -> Vec<String> {
    flatten(&as_json(dict)).into_keys().collect()
}

/// The tables of a layer in which nothing stands, and which therefore have no keys.
pub(super) fn empty_tables(dict: &Dict) -> impl Iterator<Item = String> {
    let empty = |value: &Value| value.as_dict().is_some_and(Dict::is_empty);
    dict.iter().filter(move |(_, value)| empty(value)).map(|(name, _)| name.clone())
}

fn as_json(value: &impl Serialize) -> serde_json::Value {
    // Layers are tables of text, numbers and lists, all of which JSON has.
    serde_json::to_value(value).unwrap_or_else(|error| unreachable!("a layer serializes: {error}"))
}

/// The known key that is most like this one, if any is close enough to be what was meant.
pub(super) fn closest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // The right name in the wrong table is as likely a mistake as a typo.
    let leaf = |key: &'_ str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |candidate: &str| {
        let names = strsim::normalized_damerau_levenshtein(&leaf(key), &leaf(candidate));
        strsim::normalized_damerau_levenshtein(key, candidate).max(names * 0.9)
    };
    let (best, likeness) = known.map(|k| (k, likeness(k))).max_by(|a, b| a.1.total_cmp(&b.1))?;
    (likeness > 0.6).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_takes_the_type_of_the_default() {
        let shows = |default: Json, text: &str| shown(&typed(&default, text));
        for text in ["2,3", "[2, 3]", " 2 , 3 "] {
            assert_eq!(shows(json!([0]), text), "[2, 3]", "{text}");
        }
        assert_eq!(shows(json!(["a"]), "[\"x\", 'y']"), "[\"x\", \"y\"]");
        assert_eq!(shows(json!([]), "4.5,x"), "[4.5, \"x\"]");
        assert_eq!(shows(json!("m"), "135"), "\"135\"");
        assert_eq!(shows(json!(1.0), "7e-1"), "0.7");
        assert_eq!(shows(json!(1.0), "1"), "1");
        assert_eq!(shows(json!(1.0), "inf"), "inf");
        assert_eq!(shows(json!(1), "-4"), "-4");
        assert_eq!(shows(json!(1), "four"), "\"four\"");
        assert_eq!(shows(json!(false), "true"), "true");
    }

    #[test]
    fn a_nested_leaf_has_its_key() {
        assert_eq!(keys(&nested("engine.deep.model", Value::from("m"))), ["engine.deep.model"]);
    }

    #[test]
    fn a_typo_and_a_wrong_table_are_guessed() {
        let known = ["engine.model", "engine.max_model_len", "workload.load", "run.seed"];
        assert_eq!(closest("engine.modle", known.into_iter()), Some("engine.model"));
        assert_eq!(closest("model", known.into_iter()), Some("engine.model"));
        assert_eq!(closest("workload.seed", known.into_iter()), Some("run.seed"));
        assert_eq!(closest("engine.temperature", known.into_iter()), None);
    }
}
