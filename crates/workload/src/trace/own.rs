//! dualpool's own traces: JSONL that says all that a run can use, and nothing that it must not have.
//!
//! The first line may be a header, `{"dualpool_trace": 1, "block_tokens": 64}`. Every other line is a request:
//! `{"at_ms": 12.5, "prompt_tokens": 300, "output_tokens": 20, "hash_ids": [1, 2], "priority": 1, "class": "long", "session": 7,
//! "turn": 0}`, of which only the first three keys are needed.

use serde::{Deserialize, Serialize};

use dualpool_types::{Class, Priority, SessionId, Turn};

use super::mooncake;
use super::row::{TraceRow, blocks_fit, json, millis, tokens};

/// The version that this program reads and writes.
const VERSION: u32 = 1;

/// What `hash_ids` count in, without a header.
pub(super) const BLOCK_TOKENS: u32 = mooncake::BLOCK_TOKENS;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    dualpool_trace: u32,
    #[serde(default = "block_tokens")]
    block_tokens: u32,
}

fn block_tokens() -> u32 {
    BLOCK_TOKENS
}

/// A line. Keys that are not known are refused: one that is misspelt would be lost in silence.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    at_ms: f64,
    prompt_tokens: u64,
    output_tokens: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hash_ids: Vec<u64>,
    #[serde(default)]
    priority: Priority,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<Class>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<SessionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    turn: Option<u32>,
}

/// Whether an object with these keys is a header.
pub(super) fn is_header(has: impl Fn(&str) -> bool) -> bool {
    has("dualpool_trace")
}

/// Whether an object with these keys is a request.
pub(super) fn is_line(has: impl Fn(&str) -> bool) -> bool {
    ["at_ms", "prompt_tokens", "output_tokens"].into_iter().all(has)
}

/// The tokens of a block.
pub(super) fn header(text: &str) -> Result<u32, String> {
    let Header { dualpool_trace, block_tokens } = json(text)?;
    if dualpool_trace != VERSION {
        return Err(format!("the header of version {dualpool_trace}; this program reads version {VERSION}"));
    }
    tokens("block_tokens", block_tokens.into())
}

pub(super) fn row(line: u64, text: &str, block_tokens: u32) -> Result<TraceRow, String> {
    let Line { at_ms, prompt_tokens, output_tokens, hash_ids, priority, class, session, turn } = json(text)?;
    let turn = match (session, turn) {
        (Some(session), Some(index)) => Some(Turn { session, index }),
        (None, None) => None,
        _ => return Err("`session` and `turn` go together: one is there without the other".into()),
    };
    let prompt_tokens = tokens("prompt_tokens", prompt_tokens)?;
    blocks_fit(hash_ids.len(), block_tokens, prompt_tokens)?;
    let row = TraceRow::new(line, millis("at_ms", at_ms)?, prompt_tokens, tokens("output_tokens", output_tokens)?);
    Ok(TraceRow { hash_ids, priority, class, turn, ..row })
}

impl TraceRow {
    /// The header of a trace whose hash ids stand for blocks of so many tokens.
    pub fn header(block_tokens: u32) -> String {
        serde_json::json!(Header { dualpool_trace: VERSION, block_tokens }).to_string()
    }

    /// This request as a line of dualpool's own format, without the line's end.
    pub fn to_line(&self) -> String {
        let line = Line {
            at_ms: self.at.as_ms(),
            prompt_tokens: self.prompt_tokens.into(),
            output_tokens: self.output_tokens.into(),
            hash_ids: self.hash_ids.clone(),
            priority: self.priority,
            class: self.class,
            session: self.turn.map(|turn| turn.session),
            turn: self.turn.map(|turn| turn.index),
        };
        serde_json::json!(line).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::Micros;

    #[test]
    fn three_keys_are_a_request_and_all_keys_are_read() {
        let text = r#"{"at_ms": 12.5, "prompt_tokens": 300, "output_tokens": 20}"#;
        assert_eq!(row(4, text, 64), Ok(TraceRow::new(4, Micros(12_500), 300, 20)));
        let text = r#"{"at_ms": 12.5, "prompt_tokens": 300, "output_tokens": 20, "hash_ids": [1, 2], "priority": 1, "class": "long",
                       "session": 7, "turn": 0}"#;
        let expected = TraceRow {
            hash_ids: vec![1, 2],
            priority: Priority::High,
            class: Some(Class::Long),
            turn: Some(Turn { session: SessionId(7), index: 0 }),
            ..TraceRow::new(4, Micros(12_500), 300, 20)
        };
        assert_eq!(row(4, text, 64), Ok(expected.clone()));
        assert_eq!(row(4, &expected.to_line(), 64), Ok(expected));
    }

    #[test]
    fn a_bad_row_says_what_is_wrong_with_it() {
        let start = r#"{"at_ms": 1, "prompt_tokens": 100, "output_tokens": 5"#;
        for (rest, reason) in [
            (r#", "priority": 4}"#, "priority is 4; it must be 1 (highest), 2 or 3"),
            (r#", "priority": 0}"#, "priority is 0"),
            (r#", "class": "medium"}"#, "unknown variant `medium`"),
            (r#", "session": 7}"#, "`session` and `turn` go together"),
            (r#", "turn": 7}"#, "`session` and `turn` go together"),
            (r#", "hash_ids": [1, 2, 3]}"#, "100 prompt tokens are 2 blocks of 64"),
            (r#", "piority": 1}"#, "unknown field `piority`"),
            (r#", "at_ms": 2}"#, "duplicate field `at_ms`"),
        ] {
            let error = row(1, &format!("{start}{rest}"), 64).unwrap_err();
            assert!(error.contains(reason), "{rest}: {error}");
        }
    }

    #[test]
    fn a_header_says_how_large_blocks_are() {
        assert_eq!(header(&TraceRow::header(64)), Ok(64));
        assert_eq!(header(r#"{"dualpool_trace": 1}"#), Ok(512));
        assert!(header(r#"{"dualpool_trace": 2}"#).unwrap_err().contains("version 2"));
        assert!(header(r#"{"dualpool_trace": 1, "block_tokens": 0}"#).unwrap_err().contains("block_tokens is 0"));
        assert!(header(r#"{"dualpool_trace": 1, "block_size": 16}"#).unwrap_err().contains("unknown field"));
    }
}
