//! Which format a trace is in: the first line says it. A file's name says nothing, for users name files as they like.

use std::fmt;

use serde_json::{Map, Value};

use super::error::quoted;
use super::row::TraceRow;
use super::{azure, mooncake, own};

/// The formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    AzureCsv,
    MooncakeJsonl,
    DualpoolJsonl,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::AzureCsv => "Azure LLM CSV",
            Format::MooncakeJsonl => "Mooncake JSONL",
            Format::DualpoolJsonl => "dualpool JSONL",
        })
    }
}

/// Reads the rows of one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parser {
    Azure(azure::Columns),
    Mooncake,
    Own { block_tokens: u32 },
}

/// What the first line is, besides telling the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstLine {
    Header,
    Row,
}

impl Parser {
    /// Judges a file by its first line. Where that is of no known format, says what it is.
    pub(super) fn of(first: &str) -> Result<(Parser, FirstLine), String> {
        if !first.starts_with('{') {
            let columns = azure::Columns::of(first).ok_or_else(|| quoted(first))?;
            return Ok((Parser::Azure(columns), FirstLine::Header));
        }
        let object: Map<String, Value> = serde_json::from_str(first).map_err(|_| format!("no JSON object: {}", quoted(first)))?;
        let has = |key: &str| object.contains_key(key);
        if own::is_header(has) {
            let block_tokens = own::header(first)?;
            return Ok((Parser::Own { block_tokens }, FirstLine::Header));
        }
        if own::is_line(has) {
            return Ok((Parser::Own { block_tokens: own::BLOCK_TOKENS }, FirstLine::Row));
        }
        if mooncake::is_line(has, object.len()) {
            return Ok((Parser::Mooncake, FirstLine::Row));
        }
        let keys: Vec<&str> = object.keys().map(String::as_str).collect();
        Err(format!("an object with the keys {}", quoted(&keys.join(", "))))
    }

    pub(super) fn row(&self, line: u64, text: &str) -> Result<TraceRow, String> {
        match *self {
            Parser::Azure(columns) => columns.row(line, text),
            Parser::Mooncake => mooncake::row(line, text),
            Parser::Own { block_tokens } => own::row(line, text, block_tokens),
        }
    }

    pub(super) fn format(&self) -> Format {
        match self {
            Parser::Azure(_) => Format::AzureCsv,
            Parser::Mooncake => Format::MooncakeJsonl,
            Parser::Own { .. } => Format::DualpoolJsonl,
        }
    }

    /// The tokens that a hash id stands for.
    pub(super) fn block_tokens(&self) -> u32 {
        match *self {
            Parser::Azure(_) | Parser::Mooncake => mooncake::BLOCK_TOKENS,
            Parser::Own { block_tokens } => block_tokens,
        }
    }
}
