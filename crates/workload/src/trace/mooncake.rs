//! Mooncake traces: JSONL with times in milliseconds and, per request, the ids of the blocks of 512 tokens that its prompt consists
//! of. An id stands for its block and all before it.

use serde::Deserialize;

use super::row::{TraceRow, blocks_fit, json, millis, tokens};

/// Tokens of a block.
pub(super) const BLOCK_TOKENS: u32 = 512;

/// A line. Keys that are not known are refused: formats that look alike have other units (seconds, blocks of 16 tokens), and their
/// further keys are what tells them apart.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    timestamp: f64,
    input_length: u64,
    output_length: u64,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

/// Whether an object with these keys is a line of such a trace.
pub(super) fn is_line(has: impl Fn(&str) -> bool, keys: usize) -> bool {
    ["timestamp", "input_length", "output_length"].into_iter().all(&has) && keys == 3 + usize::from(has("hash_ids"))
}

pub(super) fn row(line: u64, text: &str) -> Result<TraceRow, String> {
    let Line { timestamp, input_length, output_length, hash_ids } = json(text)?;
    let prompt_tokens = tokens("input_length", input_length)?;
    blocks_fit(hash_ids.len(), BLOCK_TOKENS, prompt_tokens)?;
    let row = TraceRow::new(line, millis("timestamp", timestamp)?, prompt_tokens, tokens("output_length", output_length)?);
    Ok(TraceRow { hash_ids, ..row })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::Micros;

    #[test]
    fn a_line_is_a_request() {
        let text = r#"{"timestamp": 3052, "input_length": 1025, "output_length": 52, "hash_ids": [46, 47, 2353]}"#;
        let expected = TraceRow { hash_ids: vec![46, 47, 2353], ..TraceRow::new(9, Micros(3_052_000), 1025, 52) };
        assert_eq!(row(9, text), Ok(expected));
        assert_eq!(row(9, r#"{"timestamp":0.5,"input_length":1,"output_length":1}"#), Ok(TraceRow::new(9, Micros(500), 1, 1)));
    }

    #[test]
    fn a_bad_row_says_what_is_wrong_with_it() {
        for (text, reason) in [
            (r#"{"timestamp": 0, "input_length": 1024, "output_length": 5, "hash_ids": [1, 2, 3]}"#, "hash_ids has 3 ids"),
            (r#"{"timestamp": -1, "input_length": 10, "output_length": 5, "hash_ids": []}"#, "timestamp is -1"),
            (r#"{"timestamp": 1e18, "input_length": 10, "output_length": 5, "hash_ids": []}"#, "timestamp is 1000000000000000000"),
            (r#"{"timestamp": 1e999, "input_length": 10, "output_length": 5, "hash_ids": []}"#, "number out of range"),
            (r#"{"timestamp": 0, "input_length": -10, "output_length": 5, "hash_ids": []}"#, "invalid value: integer `-10`"),
            (r#"{"timestamp": 0, "input_length": 1e30, "output_length": 5, "hash_ids": []}"#, "floating point"),
            (r#"{"timestamp": 0, "input_length": 99999999999, "output_length": 5}"#, "input_length is 99999999999"),
            (r#"{"timestamp": 0, "input_length": 0, "output_length": 5, "hash_ids": []}"#, "input_length is 0"),
            (r#"{"timestamp": 0, "input_length": 10, "output_length": 0, "hash_ids": []}"#, "output_length is 0"),
            (r#"{"timestamp": 0, "input_length": 10, "output_length": 5, "hash_ids": [-1]}"#, "invalid value: integer `-1`"),
            (r#"{"timestamp": 0, "input_length": 10, "hash_ids": []}"#, "missing field `output_length`"),
            (r#"{"timestamp": 0, "input_length": 10, "output_length": 5, "turn": 1}"#, "unknown field `turn`"),
            (r#"{"timestamp": 0, "input_length": 10, "output_le"#, "EOF while parsing"),
            ("null", "invalid type: null"),
        ] {
            let error = row(1, text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("at line"), "{error}");
        }
    }
}
