//! The requests of a trace as they are recorded, in the order of the file.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::error::{BadRows, TraceError};
use super::format::{FirstLine, Format, Parser};
use super::lines::{Lines, NoText};
use super::row::TraceRow;

/// Opens a trace and finds out its format.
pub fn open(path: &Path) -> Result<Rows<BufReader<File>>, TraceError> {
    let file = File::open(path).map_err(|source| TraceError::Open { path: path.to_path_buf(), source })?;
    Rows::new(path.display().to_string(), BufReader::new(file))
}

/// The rows of a trace that can be used; the others are counted and named. Ends with the file, or with the first error.
#[derive(Debug)]
pub struct Rows<R> {
    trace: String,
    lines: Lines<R>,
    parser: Parser,
    /// What the first line held, when it was a row already.
    first: Option<Result<TraceRow, String>>,
    bad: BadRows,
    failed: bool,
}

impl<R: BufRead> Rows<R> {
    /// `trace` is how messages call the file.
    pub fn new(trace: impl Into<String>, reader: R) -> Result<Rows<R>, TraceError> {
        let (trace, mut lines) = (trace.into(), Lines::new(reader));
        let (line, first) = match lines.next() {
            Ok(Some((line, Ok(text)))) => (line, text.to_string()),
            Ok(Some((line, Err(no_text)))) => {
                let found = match no_text {
                    NoText::NotUtf8 => "not text in UTF-8 (a compressed file must be unpacked first)".into(),
                    NoText::TooLong => "too long for a line of any of them".into(),
                };
                return Err(TraceError::UnknownFormat { trace, line, found });
            }
            Ok(None) => return Err(TraceError::Empty { trace }),
            Err(source) => return Err(TraceError::Read { trace, line: lines.number(), source }),
        };
        match Parser::of(&first) {
            Ok((parser, kind)) => {
                let first = (kind == FirstLine::Row).then(|| parser.row(line, &first));
                Ok(Rows { trace, lines, parser, first, bad: BadRows::default(), failed: false })
            }
            Err(found) => Err(TraceError::UnknownFormat { trace, line, found }),
        }
    }

    pub fn format(&self) -> Format {
        self.parser.format()
    }

    /// The tokens that one of a row's hash ids stands for.
    pub fn block_tokens(&self) -> u32 {
        self.parser.block_tokens()
    }

    /// The rows that could not be used, among those read so far.
    pub fn bad_rows(&self) -> &BadRows {
        &self.bad
    }

    pub(super) fn trace(&self) -> &str {
        &self.trace
    }

    fn read(&mut self) -> Option<Result<Result<TraceRow, String>, TraceError>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        match self.lines.next() {
            Ok(None) => None,
            Ok(Some((line, text))) => Some(Ok(text.map_err(NoText::reason).and_then(|text| self.parser.row(line, text)))),
            Err(source) => {
                let line = self.lines.number();
                Some(Err(TraceError::Read { trace: self.trace.clone(), line, source }))
            }
        }
    }
}

impl<R: BufRead> Iterator for Rows<R> {
    type Item = Result<TraceRow, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.read()? {
                Ok(Ok(row)) => return Some(Ok(row)),
                Ok(Err(reason)) => self.bad.add(self.lines.number(), reason),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
