//! The rows of a trace by time. Recorders write a request down when it ends, or from several threads, so that rows are a little out
//! of order; sorting the whole file would hold all of it in memory.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::io::BufRead;

use dualpool_types::Micros;

use super::error::TraceError;
use super::row::TraceRow;
use super::rows::Rows;

/// A row is put in its place over as many rows as this.
pub const REORDER_ROWS: usize = 1024;

/// The rows in order of time; those of one time in the order of the file.
#[derive(Debug)]
pub(super) struct InOrder<R> {
    rows: Rows<R>,
    /// The next rows, the earliest on top.
    window: BinaryHeap<Reverse<ByTime>>,
    /// Of the row last given.
    given: Micros,
    /// Of all rows read.
    latest: Micros,
    /// Rows that came after a later one.
    out_of_order: u64,
    ended: bool,
}

#[derive(Debug, PartialEq)]
struct ByTime(TraceRow);

impl Eq for ByTime {}

impl PartialOrd for ByTime {
    fn partial_cmp(&self, other: &ByTime) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A line number occurs once, so that equal here is equal in all.
impl Ord for ByTime {
    fn cmp(&self, other: &ByTime) -> Ordering {
        (self.0.at, self.0.line).cmp(&(other.0.at, other.0.line))
    }
}

impl<R: BufRead> InOrder<R> {
    pub(super) fn new(rows: Rows<R>) -> InOrder<R> {
        InOrder { rows, window: BinaryHeap::new(), given: Micros::ZERO, latest: Micros::ZERO, out_of_order: 0, ended: false }
    }

    pub(super) fn rows(&self) -> &Rows<R> {
        &self.rows
    }

    pub(super) fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    fn take(&mut self, row: TraceRow) -> Result<(), TraceError> {
        if row.at < self.given {
            let trace = self.rows.trace().to_string();
            return Err(TraceError::OutOfOrder { trace, line: row.line, late_by: self.given - row.at });
        }
        if row.at < self.latest {
            self.out_of_order += 1;
        }
        self.latest = self.latest.max(row.at);
        self.window.push(Reverse(ByTime(row)));
        Ok(())
    }
}

impl<R: BufRead> Iterator for InOrder<R> {
    type Item = Result<TraceRow, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended && self.window.len() <= REORDER_ROWS {
            let taken = match self.rows.next() {
                None => {
                    self.ended = true;
                    break;
                }
                Some(row) => row.and_then(|row| self.take(row)),
            };
            if let Err(error) = taken {
                self.ended = true;
                self.window.clear();
                return Some(Err(error));
            }
        }
        let Reverse(ByTime(row)) = self.window.pop()?;
        self.given = row.at;
        Some(Ok(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(times_ms: impl IntoIterator<Item = u64>) -> String {
        let row = |ms| TraceRow::new(0, Micros(ms * 1000), 8, 1).to_line() + "\n";
        times_ms.into_iter().map(row).collect()
    }

    fn in_order(text: &str) -> InOrder<&[u8]> {
        InOrder::new(Rows::new("trace", text.as_bytes()).unwrap())
    }

    #[test]
    fn rows_within_the_window_are_sorted_and_ties_keep_their_order() {
        let text = trace([5, 3, 3, 9, 1]);
        let mut rows = in_order(&text);
        let sorted: Vec<_> = rows.by_ref().map(|row| row.unwrap()).map(|row| (row.at.0 / 1000, row.line)).collect();
        assert_eq!(sorted, [(1, 5), (3, 2), (3, 3), (5, 1), (9, 4)]);
        assert_eq!(rows.out_of_order(), 3);
    }

    #[test]
    fn the_earliest_row_may_be_as_late_as_the_window_is_long() {
        let window = REORDER_ROWS as u64;
        let text = trace((1..=window).chain([0]).chain(window + 1..2 * window));
        let times: Vec<u64> = in_order(&text).map(|row| row.unwrap().at.0 / 1000).collect();
        assert_eq!(times, (0..2 * window).collect::<Vec<_>>());
    }

    #[test]
    fn a_row_that_is_further_off_is_refused_by_name() {
        let text = trace((1..5000).chain([7]));
        let mut rows = in_order(&text);
        let error = rows.find_map(Result::err).unwrap().to_string();
        assert!(error.starts_with("trace: the request of line 5000 is 3.97 s earlier"), "{error}");
        assert!(error.ends_with("sort the file by time"), "{error}");
        assert!(rows.next().is_none());
    }

    #[test]
    fn no_more_rows_are_held_than_the_window_has() {
        let text = trace(0..10_000);
        let mut rows = in_order(&text);
        while let Some(row) = rows.next() {
            row.unwrap();
            assert!(rows.window.len() <= REORDER_ROWS);
        }
    }
}
