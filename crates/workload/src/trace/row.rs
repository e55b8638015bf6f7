//! A request as a trace records it, in one shape for all formats, and the bounds within which a number can be meant.

use dualpool_types::{Class, Micros, Priority, Turn};

use super::super::item::TOKENS_MAX;
use super::error::quoted;

/// A hundred years: milliseconds since 1970 are below, microseconds since 1970 above.
const AT_MS_MAX: f64 = 100.0 * 365.25 * 86_400e3;

/// A recorded request.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceRow {
    /// Its line in the file, counted from 1.
    pub line: u64,
    /// When it came, counted from the zero of its trace; for an Azure trace that is 1970.
    pub at: Micros,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    /// What the prompt begins with, block by block: equal ids are equal text. What no id covers is the request's own.
    pub hash_ids: Vec<u64>,
    pub priority: Priority,
    /// As recorded; where it is not, the prompt's length says it.
    pub class: Option<Class>,
    pub turn: Option<Turn>,
}

impl TraceRow {
    pub(super) fn new(line: u64, at: Micros, prompt_tokens: u32, output_tokens: u32) -> TraceRow {
        let (hash_ids, priority) = (Vec::new(), Priority::default());
        TraceRow { line, at, prompt_tokens, output_tokens, hash_ids, priority, class: None, turn: None }
    }
}

/// A count of tokens in the column or key of this name.
pub(super) fn tokens(name: &str, count: u64) -> Result<u32, String> {
    match u32::try_from(count) {
        Ok(0) => Err(format!("{name} is 0; a request has at least 1")),
        Ok(count) if count <= TOKENS_MAX => Ok(count),
        _ => Err(format!("{name} is {count}; that is no count of tokens, of which there are at most {TOKENS_MAX}")),
    }
}

/// A time in milliseconds under the key of this name.
pub(super) fn millis(name: &str, ms: f64) -> Result<Micros, String> {
    if (0.0..=AT_MS_MAX).contains(&ms) {
        Ok(Micros::from_ms(ms))
    } else {
        Err(format!("{name} is {ms}; it must be milliseconds, from 0 to a hundred years"))
    }
}

/// Refuses more ids than the prompt has blocks: one of the two numbers is wrong, or the blocks are of another size.
pub(super) fn blocks_fit(ids: usize, block_tokens: u32, prompt_tokens: u32) -> Result<(), String> {
    let blocks = prompt_tokens.div_ceil(block_tokens);
    if ids <= blocks as usize {
        return Ok(());
    }
    Err(format!("hash_ids has {ids} ids, but {prompt_tokens} prompt tokens are {blocks} blocks of {block_tokens}"))
}

/// A line of JSON as a row's own type. The reason says what is wrong and at which character.
pub(super) fn json<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        // The line that serde_json counts is that of one row; the file's line stands elsewhere.
        let message = error.to_string();
        let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
        format!("{} at character {} of {}", what.trim(), error.column(), quoted(text))
    })
}
