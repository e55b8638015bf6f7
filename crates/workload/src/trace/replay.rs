//! A trace as the requests of a run: from its first request on, at the speed asked for, within what the model takes.

use std::fmt;
use std::io::BufRead;
use std::sync::Arc;

use dualpool_types::{Class, LONG_PROMPT_TOKENS_MIN, Micros, TokenId};

use super::super::item::{ModelLimits, WorkItem};
use super::super::parameter::{ParameterError, require, within};
use super::super::tokens::{Text, Writer};
use super::error::{BadRows, TraceError};
use super::format::Format;
use super::order::InOrder;
use super::row::TraceRow;
use super::rows::Rows;

/// What of a trace is replayed, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayOptions {
    pub model: ModelLimits,
    /// 2 replays the trace in half of its time. Lengths stay as they are.
    pub speed: f64,
    /// Requests left out at the beginning.
    pub offset: u64,
    /// Requests replayed at most.
    pub limit: Option<u32>,
    /// Prompts from here on count as long where the trace does not say what they are.
    pub long_prompt_tokens_min: u32,
    /// What the prompts' tokens are drawn from.
    pub seed: u64,
}

impl ReplayOptions {
    /// The whole trace, as fast as it was recorded.
    pub fn new(model: ModelLimits) -> ReplayOptions {
        ReplayOptions { model, speed: 1.0, offset: 0, limit: None, long_prompt_tokens_min: LONG_PROMPT_TOKENS_MIN, seed: 1 }
    }

    fn check(&self) -> Result<(), ParameterError> {
        self.model.check()?;
        within("replay_speed", self.speed, 1e-3..=1e6, "from 0.001 to 1000000")?;
        require("limit", self.limit.unwrap_or(1), self.limit != Some(0), "at least 1")
    }
}

/// The requests of a trace in order of arrival, made one by one.
#[derive(Debug)]
pub struct Replay<R> {
    rows: InOrder<R>,
    options: ReplayOptions,
    writer: Writer,
    /// When the first request came, from which arrivals count.
    origin: Option<Micros>,
    skipped: u64,
    requests: u32,
    clipped: Clipped,
    ended: bool,
    scratch: Vec<TokenId>,
}

impl<R: BufRead> Replay<R> {
    pub fn new(rows: Rows<R>, options: ReplayOptions) -> Result<Replay<R>, TraceError> {
        options.check()?;
        Ok(Replay {
            rows: InOrder::new(rows),
            writer: Writer::new(options.model.vocab_size, options.seed),
            options,
            origin: None,
            skipped: 0,
            requests: 0,
            clipped: Clipped::default(),
            ended: false,
            scratch: Vec::new(),
        })
    }

    /// What became of the rows read so far; of all, when the requests have come to their end.
    pub fn report(&self) -> ReplayReport {
        ReplayReport {
            format: self.rows.rows().format(),
            requests: self.requests,
            skipped: self.skipped,
            out_of_order: self.rows.out_of_order(),
            max_model_len: self.options.model.max_model_len,
            clipped: self.clipped,
            bad_rows: self.rows.rows().bad_rows().clone(),
        }
    }

    fn next_row(&mut self) -> Option<Result<TraceRow, TraceError>> {
        if self.ended || self.requests == self.options.limit.unwrap_or(u32::MAX) {
            return None;
        }
        loop {
            match self.rows.next() {
                Some(Ok(_)) if self.skipped < self.options.offset => self.skipped += 1,
                Some(row) => {
                    self.ended = row.is_err();
                    return Some(row);
                }
                None => {
                    self.ended = true;
                    return (self.requests == 0).then(|| Err(self.no_requests()));
                }
            }
        }
    }

    fn no_requests(&self) -> TraceError {
        let (trace, bad_rows) = (self.rows.rows().trace().to_string(), self.rows.rows().bad_rows().clone());
        TraceError::NoRequests { trace, requests: self.skipped, offset: self.options.offset, bad_rows }
    }

    fn item(&mut self, row: &TraceRow) -> WorkItem {
        let origin = *self.origin.get_or_insert(row.at);
        let at = Micros(((row.at - origin).0 as f64 / self.options.speed).round() as u64);
        let (prompt_tokens, output_tokens) = clip(row, self.options.model.max_model_len);
        self.clipped.add(row, prompt_tokens, output_tokens);
        let by_length = if prompt_tokens >= self.options.long_prompt_tokens_min { Class::Long } else { Class::Short };
        let index = self.requests;
        self.requests += 1;
        WorkItem {
            priority: row.priority,
            turn: row.turn,
            ..WorkItem::new(index, at, self.prompt(row, prompt_tokens), output_tokens, row.class.unwrap_or(by_length))
        }
    }

    /// The prompt's blocks by their ids, and then what is the request's own: named by its line, which no offset changes.
    fn prompt(&mut self, row: &TraceRow, tokens: u32) -> Arc<[TokenId]> {
        self.scratch.clear();
        let block_tokens = self.rows.rows().block_tokens() as usize;
        let mut left = tokens as usize;
        for &id in &row.hash_ids {
            let length = left.min(block_tokens);
            self.writer.append(&mut self.scratch, Text::Block(id), length);
            left -= length;
        }
        self.writer.append(&mut self.scratch, Text::Request(row.line), left);
        self.scratch[..].into()
    }
}

impl<R: BufRead> Iterator for Replay<R> {
    type Item = Result<WorkItem, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_row()?.map(|row| self.item(&row)))
    }
}

/// Prompt and output tokens that a context holds: the prompt loses its end, so that what it shares with others stays. The output
/// gives way only when it is longer than both the room that the prompt leaves and half of the context.
fn clip(row: &TraceRow, max_model_len: u32) -> (u32, u32) {
    let room = max_model_len.saturating_sub(row.prompt_tokens).max(max_model_len / 2);
    let output = row.output_tokens.min(room);
    (row.prompt_tokens.min(max_model_len - output), output)
}

/// What did not fit the model's context and was cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clipped {
    pub requests: u32,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
}

impl Clipped {
    fn add(&mut self, row: &TraceRow, prompt_tokens: u32, output_tokens: u32) {
        let (prompt, output) = (row.prompt_tokens - prompt_tokens, row.output_tokens - output_tokens);
        self.requests += u32::from(prompt + output > 0);
        self.prompt_tokens += u64::from(prompt);
        self.output_tokens += u64::from(output);
    }
}

/// What became of a trace's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayReport {
    pub format: Format,
    /// Requests given.
    pub requests: u32,
    /// Requests left out by the offset.
    pub skipped: u64,
    /// Rows that stood after a later one and were put in their place, the rows read ahead included.
    pub out_of_order: u64,
    /// What requests are clipped to.
    pub max_model_len: u32,
    pub clipped: Clipped,
    pub bad_rows: BadRows,
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} requests", self.format, self.requests)?;
        if self.skipped > 0 {
            write!(f, " after {} that were skipped", self.skipped)?;
        }
        if self.out_of_order > 0 {
            write!(f, ", {} rows put in order", self.out_of_order)?;
        }
        let Clipped { requests, prompt_tokens, output_tokens } = self.clipped;
        if requests > 0 {
            let context = self.max_model_len;
            write!(f, ", {requests} clipped to {context} tokens (by {prompt_tokens} of prompt and {output_tokens} of output)")?;
        }
        write!(f, ", {}", self.bad_rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clipped(prompt_tokens: u32, output_tokens: u32, max_model_len: u32) -> (u32, u32) {
        clip(&TraceRow::new(1, Micros::ZERO, prompt_tokens, output_tokens), max_model_len)
    }

    #[test]
    fn what_fits_stays_and_what_does_not_gives_way() {
        assert_eq!(clipped(3596, 500, 4096), (3596, 500));
        assert_eq!(clipped(126_195, 500, 4096), (3596, 500));
        assert_eq!(clipped(10, 5000, 4096), (10, 4086));
        assert_eq!(clipped(3000, 3000, 4096), (2048, 2048));
        assert_eq!(clipped(9000, 9000, 4096), (2048, 2048));
        assert_eq!(clipped(1, 1, 2), (1, 1));
        assert_eq!(clipped(9, 9, 2), (1, 1));
        assert_eq!(clipped(9, 9, 3), (2, 1));
    }
}
