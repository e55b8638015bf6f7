//! What ends the reading of a trace, and what only costs a row.

use std::path::PathBuf;
use std::{fmt, io};

use thiserror::Error;

use dualpool_types::{Micros, UserError};

use super::super::parameter::ParameterError;
use super::order::REORDER_ROWS;

/// A trace that cannot be replayed.
#[derive(Debug, Error)]
pub enum TraceError {
    #[error("cannot open the trace {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{trace}: cannot read on after line {line}: {source}")]
    Read { trace: String, line: u64, source: io::Error },
    #[error("{trace} is empty: there is no request in it")]
    Empty { trace: String },
    #[error(
        "{trace} is in no known format: line {line} is {found}. Looked for: Azure LLM CSV (the header \
         `TIMESTAMP,ContextTokens,GeneratedTokens`), Mooncake JSONL (keys `timestamp`, `input_length`, `output_length`, `hash_ids`), \
         dualpool JSONL (keys `at_ms`, `prompt_tokens`, `output_tokens`)"
    )]
    UnknownFormat { trace: String, line: u64, found: String },
    #[error(
        "{trace}: the request of line {line} is {late_by} earlier than one that was already given. Requests are sorted within \
         {REORDER_ROWS} rows, and this one is further off: sort the file by time"
    )]
    OutOfOrder { trace: String, line: u64, late_by: Micros },
    #[error("{trace}: no request is left: {requests} can be used, {offset} of them are skipped by the offset; {bad_rows}")]
    NoRequests { trace: String, requests: u64, offset: u64, bad_rows: BadRows },
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

impl UserError for TraceError {
    fn hint(&self) -> &'static str {
        "docs/workloads.md says what traces can be read"
    }
}

/// How many bad rows are named; the others are only counted.
pub const BAD_ROWS_NAMED: usize = 5;

/// The rows of a trace that could not be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadRows {
    pub count: u64,
    /// The first few.
    pub named: Vec<BadRow>,
}

/// A row that could not be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Counted from 1.
    pub line: u64,
    pub reason: String,
}

impl BadRows {
    pub(super) fn add(&mut self, line: u64, reason: String) {
        self.count += 1;
        if self.named.len() < BAD_ROWS_NAMED {
            self.named.push(BadRow { line, reason });
        }
    }
}

impl fmt::Display for BadRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => return write!(f, "no bad rows"),
            1 => write!(f, "1 bad row")?,
            count => write!(f, "{count} bad rows")?,
        }
        for (i, BadRow { line, reason }) in self.named.iter().enumerate() {
            write!(f, "{} line {line}: {reason}", if i == 0 { ":" } else { ";" })?;
        }
        match self.count - self.named.len() as u64 {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Text from a file as it may stand in a message: its beginning, with control characters escaped, for a terminal would obey them.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut start = String::new();
    for c in text.chars().take(CHARS_MAX) {
        if c.is_control() { start.extend(c.escape_debug()) } else { start.push(c) }
    }
    if text.chars().nth(CHARS_MAX).is_some() {
        start.push_str("...");
    }
    format!("`{start}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_rows_are_named_and_all_are_counted() {
        let mut bad = BadRows::default();
        assert_eq!(bad.to_string(), "no bad rows");
        bad.add(3, "no digits".into());
        assert_eq!(bad.to_string(), "1 bad row: line 3: no digits");
        (4..11).for_each(|line| bad.add(line, "again".into()));
        assert_eq!((bad.count, bad.named.len()), (8, BAD_ROWS_NAMED));
        assert!(bad.to_string().starts_with("8 bad rows: line 3: no digits; line 4: again;"), "{bad}");
        assert!(bad.to_string().ends_with("; line 7: again; and 3 more"), "{bad}");
    }

    #[test]
    fn quotes_are_short_and_printable() {
        assert_eq!(quoted("\"a\tb\u{1b}"), "`\"a\\tb\\u{1b}`");
        assert_eq!(quoted(&"x".repeat(1000)).len(), 60 + 3 + 2);
    }
}
