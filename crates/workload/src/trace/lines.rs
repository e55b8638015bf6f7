//! Lines of a file that may be anything: with a byte-order mark, with `\r\n`, with no end, without text.

use std::io::{self, BufRead, Read as _};

/// Longer lines are passed over without being held in memory. The longest prompt that a trace names block by block has about 20 bytes
/// per block of 16 tokens: this is room for 800,000 tokens.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// A line that holds no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoText {
    NotUtf8,
    TooLong,
}

impl NoText {
    pub(super) fn reason(self) -> String {
        match self {
            NoText::NotUtf8 => "it is not text in UTF-8".into(),
            NoText::TooLong => format!("it is longer than {LINE_BYTES_MAX} bytes"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    /// Of the line last read, counted from 1.
    number: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R) -> Lines<R> {
        Lines { reader, number: 0, buffer: Vec::new() }
    }

    /// Of the line last read.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next line that is not blank, without its end and without space around it, after its number.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Result<&str, NoText>)>> {
        loop {
            self.buffer.clear();
            let read = self.reader.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut self.buffer)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read > LINE_BYTES_MAX && self.buffer.last() != Some(&b'\n') {
                self.reader.skip_until(b'\n')?;
                return Ok(Some((self.number, Err(NoText::TooLong))));
            }
            // Looked at before it is returned, for the borrow of what is returned would last through the loop.
            if !self.buffer.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        let text = str::from_utf8(&self.buffer).map_err(|_| NoText::NotUtf8);
        let text = text.map(|text| if self.number == 1 { text.trim_start_matches('\u{feff}').trim() } else { text.trim() });
        Ok(Some((self.number, text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<(u64, Result<String, NoText>)> {
        let mut lines = Lines::new(bytes);
        let mut all = Vec::new();
        while let Some((number, line)) = lines.next().unwrap() {
            all.push((number, line.map(str::to_string)));
        }
        all
    }

    #[test]
    fn ends_marks_and_blank_lines_are_taken_off() {
        let text = |line: &str| Ok(line.to_string());
        assert_eq!(lines(b"\xef\xbb\xbfa\r\n\r\n  b \n\nc"), [(1, text("a")), (3, text("b")), (5, text("c"))]);
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"\r\n \n"), []);
    }

    #[test]
    fn what_is_no_text_is_said_and_passed_over() {
        assert_eq!(lines(b"a\n\xff\xfe\nb"), [(1, Ok("a".into())), (2, Err(NoText::NotUtf8)), (3, Ok("b".into()))]);
    }

    #[test]
    fn a_line_without_an_end_is_not_held_in_memory() {
        let mut file = vec![b'x'; 3 * LINE_BYTES_MAX];
        file.extend(b"\nb");
        let mut lines = Lines::new(&file[..]);
        assert_eq!(lines.next().unwrap(), Some((1, Err(NoText::TooLong))));
        assert!(lines.buffer.capacity() < 3 * LINE_BYTES_MAX, "{} bytes are held", lines.buffer.capacity());
        assert_eq!(lines.next().unwrap(), Some((2, Ok("b"))));

        let longest = [&vec![b'x'; LINE_BYTES_MAX - 1][..], b"\ny\n"].concat();
        let mut lines = Lines::new(&longest[..]);
        assert_eq!(lines.next().unwrap().unwrap().1.unwrap().len(), LINE_BYTES_MAX - 1);
        assert_eq!(lines.next().unwrap(), Some((2, Ok("y"))));
    }
}
