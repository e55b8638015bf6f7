//! The keys of all settings, and values given as text.

use std::collections::BTreeMap;

use figment::value::{Dict, Empty, Num, Value};

/// Every leaf of a nested table by its path: `{"engine": {"model": ..}}` gives `engine.model`.
pub fn flatten(dict: &Dict) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, dict: &Dict, out: &mut BTreeMap<String, Value>) {
        for (name, value) in dict {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                Value::Dict(_, inner) => walk(&key, inner, out),
                leaf => {
                    out.insert(key, leaf.clone());
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", dict, &mut out);
    out
}

/// A table with this one leaf.
pub fn nested(key: &str, value: Value) -> Dict {
    let (name, value) = match key.split_once('.') {
        Some((name, rest)) => (name, Value::from(nested(rest, value))),
        None => (key, value),
    };
    Dict::from([(name.to_string(), value)])
}

/// Text from the environment or a flag as a value of the default's type. A list is `a,b` (or TOML's `["a", "b"]`). What does not
/// parse stays text, for which the settings' own types have an error.
pub fn typed(default: &Value, text: &str) -> Value {
    let text = text.trim();
    match default {
        Value::String(..) => Value::from(text),
        Value::Array(_, elements) => {
            let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
            let parts = inner.split(',').map(|part| part.trim().trim_matches(['"', '\''])).filter(|part| !part.is_empty());
            // A list that is empty by default does not say what it is of: numbers, where they read as such.
            let element = elements.first().cloned().unwrap_or_else(|| Value::from(0u32));
            Value::from(parts.map(|part| typed(&element, part)).collect::<Vec<_>>())
        }
        Value::Bool(..) => text.parse::<bool>().map_or_else(|_| Value::from(text), Value::from),
        _ => text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<f64>().map(Value::from))
            .unwrap_or_else(|_| Value::from(text)),
    }
}

/// The value as the user wrote it, for messages and listings.
pub fn written(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("\"{text}\""),
        Value::Char(_, c) => format!("\"{c}\""),
        Value::Bool(_, b) => b.to_string(),
        Value::Num(_, num) => written_number(num),
        Value::Empty(_, Empty::None | Empty::Unit) => "empty".into(),
        Value::Array(_, elements) => format!("[{}]", elements.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Dict(_, dict) => {
            let pairs: Vec<_> = flatten(dict).iter().map(|(key, value)| format!("{key} = {}", written(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

fn written_number(num: &Num) -> String {
    match (num.to_u128(), num.to_i128(), num.to_f64()) {
        (Some(n), ..) => n.to_string(),
        (_, Some(n), _) => n.to_string(),
        // Debug keeps the point, so that 1.0 does not turn into the whole number 1.
        (.., Some(n)) => format!("{n:?}"),
        _ => format!("{num:?}"),
    }
}

/// The known key that is most like this one, if any is close enough to be what was meant.
pub fn closest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
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

    #[test]
    fn text_takes_the_type_of_the_default() {
        let ints = Value::from(vec![0u32]);
        for text in ["2,3", "[2, 3]", " 2 , 3 "] {
            assert_eq!(written(&typed(&ints, text)), "[2, 3]", "{text}");
        }
        assert_eq!(written(&typed(&Value::from(vec!["a"]), "[\"x\", 'y']")), "[\"x\", \"y\"]");
        let empty = Value::from(Vec::<f64>::new());
        assert_eq!(written(&typed(&empty, "4.5,x")), "[4.5, \"x\"]");
        assert_eq!(written(&typed(&Value::from("m"), "135")), "\"135\"");
        assert_eq!(written(&typed(&Value::from(1.0), "7e-1")), "0.7");
        assert_eq!(written(&typed(&Value::from(1u32), "-4")), "-4");
        assert_eq!(written(&typed(&Value::from(1u32), "four")), "\"four\"");
        assert_eq!(written(&typed(&Value::from(false), "true")), "true");
    }

    #[test]
    fn nested_is_the_inverse_of_flatten() {
        let flat = flatten(&nested("engine.deep.model", Value::from("m")));
        assert_eq!(flat.keys().collect::<Vec<_>>(), ["engine.deep.model"]);
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
