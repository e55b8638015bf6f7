//! What the settings of all crates have in common: a section says what it allows, and keys and values are written in one way.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// A section of the settings. The crate that it configures owns it, and so what it allows.
pub trait Section {
    /// What its settings allow beyond their types, and whether their values are allowed.
    fn rules(&self) -> Vec<Rule>;

    /// What its settings demand of each other. Asked only when each of them is allowed by itself.
    fn relations(&self) -> Vec<Problem> {
        Vec::new()
    }
}

/// What one setting allows, in words, and whether its value is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The whole key: `kv.lease_ms`.
    pub key: &'static str,
    pub allowed: Cow<'static, str>,
    pub holds: bool,
}

impl Rule {
    /// The problem there is when it does not hold.
    pub fn problem(self) -> Option<Problem> {
        require(self.holds, self.key, self.allowed)
    }
}

pub fn rule(key: &'static str, allowed: impl Into<Cow<'static, str>>, holds: bool) -> Rule {
    Rule { key, allowed: allowed.into(), holds }
}

/// A rule for a value that its type describes but for the words: a path, or one that may be empty.
pub fn described(key: &'static str, allowed: &'static str) -> Rule {
    rule(key, allowed, true)
}

pub fn count(key: &'static str, value: impl Into<u64>) -> Rule {
    rule(key, "a whole number of at least 1", value.into() > 0)
}

pub fn positive(key: &'static str, value: f64) -> Rule {
    rule(key, "a number over 0", is_positive(value))
}

/// A number such as a weight or a price.
pub fn not_negative(key: &'static str, value: f64) -> Rule {
    rule(key, "a number of at least 0", is_not_negative(value))
}

/// A share of something that must be there.
pub fn share(key: &'static str, value: f64) -> Rule {
    rule(key, "a share over 0, at most 1", value > 0.0 && value <= 1.0)
}

/// A share by which something must be better.
pub fn margin(key: &'static str, value: f64) -> Rule {
    rule(key, "a share of at least 0 and below 1", (0.0..1.0).contains(&value))
}

pub fn is_positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

pub fn is_not_negative(value: f64) -> bool {
    value >= 0.0 && value.is_finite()
}

/// Whether a list names nothing twice.
pub fn each_once<T: PartialEq>(list: &[T]) -> bool {
    list.iter().enumerate().all(|(i, one)| !list[..i].contains(one))
}

/// A setting whose value cannot stand, and what could stand in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub key: &'static str,
    pub allowed: String,
}

/// The problem there is when this does not hold.
pub fn require(holds: bool, key: &'static str, allowed: impl Into<String>) -> Option<Problem> {
    (!holds).then(|| Problem { key, allowed: allowed.into() })
}

/// Every setting by its whole key, with its value.
pub fn values(settings: &impl Serialize) -> BTreeMap<String, Value> {
    // Settings are tables of numbers, text and lists, all of which JSON has.
    flatten(&serde_json::to_value(settings).unwrap_or_else(|error| unreachable!("settings serialize: {error}")))
}

/// Every leaf of a nested table by its path: `{"engine": {"model": ..}}` gives `engine.model`.
pub fn flatten(table: &Value) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, table: &Map<String, Value>, out: &mut BTreeMap<String, Value>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                Value::Object(inner) => walk(&key, inner, out),
                leaf => {
                    out.insert(key, leaf.clone());
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    if let Value::Object(table) = table {
        walk("", table, &mut out);
    }
    out
}

/// The inverse of `flatten`.
pub fn nest(leaves: BTreeMap<String, Value>) -> Value {
    fn insert(table: &mut Map<String, Value>, key: &str, value: Value) {
        let Some((name, rest)) = key.split_once('.') else {
            table.insert(key.to_string(), value);
            return;
        };
        if let Value::Object(inner) = table.entry(name).or_insert_with(|| Value::Object(Map::new())) {
            insert(inner, rest, value);
        }
    }
    let mut table = Map::new();
    for (key, value) in leaves {
        insert(&mut table, &key, value);
    }
    Value::Object(table)
}

/// The value as a user writes it, for messages, listings and comparisons.
pub fn written(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{text}\""),
        Value::Bool(on) => on.to_string(),
        Value::Number(number) => match number.as_f64() {
            // Debug keeps the point, so that 1.0 does not turn into the whole number 1.
            Some(float) if number.is_f64() => format!("{float:?}"),
            _ => number.to_string(),
        },
        // No setting is optional, and JSON has no other word for infinity and the like.
        Value::Null => "not a finite number".into(),
        Value::Array(elements) => format!("[{}]", elements.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Object(_) => {
            let pairs: Vec<_> = flatten(value).iter().map(|(key, value)| format!("{key} = {}", written(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// Problems as an error says them: one on the error's own line, several below it.
pub fn listed(problems: &[impl fmt::Display]) -> String {
    match problems {
        [one] => one.to_string(),
        many => many.iter().fold(format!("{} settings are wrong:", many.len()), |text, problem| format!("{text}\n  - {problem}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nest_is_the_inverse_of_flatten() {
        let table = json!({ "engine": { "deep": { "model": "m" }, "n": 1 }, "list": [1, 2] });
        let flat = flatten(&table);
        assert_eq!(flat.keys().collect::<Vec<_>>(), ["engine.deep.model", "engine.n", "list"]);
        assert_eq!(nest(flat), table);
    }

    #[test]
    fn values_are_written_as_a_user_writes_them() {
        let cases = [
            (json!("m"), "\"m\""),
            (json!(1), "1"),
            (json!(-4), "-4"),
            (json!(1.0), "1.0"),
            (json!(0.7), "0.7"),
            (json!(true), "true"),
            (json!(["a", "b"]), "[\"a\", \"b\"]"),
            (json!([]), "[]"),
            (json!({ "a": { "b": 1 } }), "{a.b = 1}"),
            (json!(f64::INFINITY), "not a finite number"),
        ];
        for (value, text) in cases {
            assert_eq!(written(&value), text);
        }
    }

    #[test]
    fn numbers_that_are_none_are_refused_by_every_rule_of_numbers() {
        for value in [f64::NAN, f64::INFINITY, -1.0] {
            for rule in [positive("k", value), not_negative("k", value), share("k", value), margin("k", value)] {
                assert!(!rule.holds, "{value}: {rule:?}");
            }
        }
        assert!(count("k", 0u32).problem().is_some() && count("k", 1u32).problem().is_none());
        assert!(each_once(&[1, 2]) && !each_once(&[1, 1]));
    }
}
