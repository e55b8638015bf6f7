//! Azure LLM inference traces: CSV with a header, one request per row.
//!
//! The traces of 2023 give times to 100 ns and without an offset (`2023-11-16 18:15:46.6805900`), those of 2024 to the microsecond
//! and with one (`2024-05-10 00:00:00.009930+00:00`), and leave out a fraction of zero. Without an offset a time is taken as UTC.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use dualpool_types::Micros;

use super::error::quoted;
use super::row::{TraceRow, tokens};

const COLUMNS: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

/// Which column of the file holds which of `COLUMNS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns([usize; 3]);

impl Columns {
    /// Reads a header: these three columns in any order, and no others, for another column may change what these mean.
    pub(super) fn of(header: &str) -> Option<Columns> {
        let names: Vec<&str> = fields(header).collect();
        let place = |column: &str| names.iter().position(|name| name.eq_ignore_ascii_case(column));
        let places = [place(COLUMNS[0])?, place(COLUMNS[1])?, place(COLUMNS[2])?];
        (names.len() == COLUMNS.len()).then_some(Columns(places))
    }

    pub(super) fn row(self, line: u64, text: &str) -> Result<TraceRow, String> {
        let mut fields = fields(text);
        let (Some(first), Some(second), Some(third), None) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
            return Err(format!("{} has {} columns in place of 3", quoted(text), text.split(',').count()));
        };
        let [at, prompt, output] = self.0.map(|place| [first, second, third][place]);
        let count = |column: &str, text: &str| match text.parse() {
            Ok(count) => tokens(column, count),
            Err(_) => Err(format!("{column} is {}; it must be a count of tokens", quoted(text))),
        };
        Ok(TraceRow::new(line, time(at)?, count(COLUMNS[1], prompt)?, count(COLUMNS[2], output)?))
    }
}

fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|field| field.trim().trim_matches('"'))
}

/// Since 1970.
fn time(text: &str) -> Result<Micros, String> {
    let unreadable = || format!("TIMESTAMP is {}; it must be a date and a time, such as 2023-11-16 18:15:46.68", quoted(text));
    let time: Timestamp = match text.parse() {
        Ok(time) => time,
        // No offset. A date alone is refused: a day has one request at midnight in no trace.
        Err(_) if text.contains(':') => {
            let civil: DateTime = text.parse().map_err(|_| unreadable())?;
            Offset::UTC.to_timestamp(civil).map_err(|_| unreadable())?
        }
        Err(_) => return Err(unreadable()),
    };
    let us = time.as_microsecond();
    u64::try_from(us).map(Micros).map_err(|_| format!("TIMESTAMP is {}, before 1970", quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Result<TraceRow, String> {
        Columns::of("TIMESTAMP,ContextTokens,GeneratedTokens").unwrap().row(7, text)
    }

    #[test]
    fn both_years_write_the_same_time() {
        let first = row("2024-05-10 00:00:00.0099300,374,44").unwrap();
        assert_eq!((first.line, first.prompt_tokens, first.output_tokens), (7, 374, 44));
        assert_eq!(first.at, Micros(1_715_299_200_009_930));
        for text in [
            "2024-05-10 00:00:00.009930+00:00,374,44",
            "2024-05-10T02:00:00.009930+02:00,374,44",
            "2024-05-10T00:00:00.00993Z,374,44",
        ] {
            assert_eq!(row(text).unwrap(), first, "{text}");
        }
        // What is below a microsecond is cut off.
        assert_eq!(row("2024-05-10 00:00:00.0099309,374,44").unwrap().at, first.at);
        assert_eq!(row("2024-05-10 00:00:00+00:00,374,44").unwrap().at, Micros(1_715_299_200_000_000));
    }

    #[test]
    fn columns_are_found_by_name() {
        let turned = Columns::of("\"generatedtokens\", timestamp ,CONTEXTTOKENS").unwrap();
        assert_eq!(turned.row(1, "44,\"2024-05-10 00:00:00\",374").unwrap().prompt_tokens, 374);
        for header in [
            "TIMESTAMP,ContextTokens",
            "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens",
            "TIMESTAMP,ContextTokens,ContextTokens",
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        ] {
            assert_eq!(Columns::of(header), None, "{header}");
        }
    }

    #[test]
    fn a_bad_row_says_what_is_wrong_with_it() {
        for (text, reason) in [
            ("2024-05-10 00:00:00,374", "has 2 columns"),
            ("2024-05-10 00:00:00,374,44,1", "has 4 columns"),
            ("2024-05-10 00:00:00,-374,44", "ContextTokens is `-374`"),
            ("2024-05-10 00:00:00,374,4.5", "GeneratedTokens is `4.5`"),
            ("2024-05-10 00:00:00,374,", "GeneratedTokens is ``"),
            ("2024-05-10 00:00:00,0,44", "ContextTokens is 0"),
            ("2024-05-10 00:00:00,374,0", "GeneratedTokens is 0"),
            ("2024-05-10 00:00:00,16777217,44", "ContextTokens is 16777217"),
            ("2024-05-10 00:00:00,99999999999999999999999,44", "ContextTokens is `999"),
            ("2024-13-10 00:00:00,374,44", "TIMESTAMP is `2024-13-10"),
            ("2024-05-10,374,44", "TIMESTAMP is `2024-05-10`"),
            ("1715299200,374,44", "TIMESTAMP is `1715299200`"),
            ("1969-05-10 00:00:00,374,44", "before 1970"),
            ("TIMESTAMP,ContextTokens,GeneratedTokens", "TIMESTAMP is `TIMESTAMP`"),
        ] {
            let error = row(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
