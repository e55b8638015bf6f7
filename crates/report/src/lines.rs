//! A file with one record per line, read record by record: what is kept of it is the reader's own affair.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::LoadError;
use super::earlier::{Translation, parse, translation};

/// One record is never this long; a line that is does not end.
pub(super) const LINE_BYTES_MAX: u64 = 64 << 20;

/// The records, up to the first line that is none.
pub(super) struct Lines<T> {
    path: PathBuf,
    file: BufReader<File>,
    buffer: Vec<u8>,
    line: usize,
    cut_off: bool,
    translation: Option<Translation>,
    record: PhantomData<fn() -> T>,
}

impl<T> Lines<T> {
    /// None when there is no such file in this folder of a run or a simulation.
    pub(crate) fn open(dir: &Path, name: &str) -> Result<Option<Lines<T>>, LoadError> {
        let path = dir.join(name);
        let file = match File::open(&path) {
            Ok(file) => BufReader::new(file),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LoadError::Read { path, source }),
        };
        let (translation, buffer, record) = (translation(dir, name)?, Vec::new(), PhantomData);
        Ok(Some(Lines { path, file, buffer, line: 0, cut_off: false, translation, record }))
    }

    /// What the reader should know when the last line was cut off (no line end, not JSON): its writer was stopped, or is not done.
    pub(crate) fn cut_off(&self) -> Option<String> {
        let name = self.path.file_name().unwrap_or_default().display();
        self.cut_off.then(|| format!("The last line of {name} was cut off and is left out."))
    }
}

impl<T: DeserializeOwned> Iterator for Lines<T> {
    type Item = Result<T, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.buffer.clear();
            self.line += 1;
            let length = match (&mut self.file).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.buffer) {
                Ok(0) => return None,
                Ok(length) => length as u64,
                Err(source) => return Some(Err(LoadError::Read { path: self.path.clone(), source })),
            };
            let ended = self.buffer.ends_with(b"\n");
            if !ended && length == LINE_BYTES_MAX {
                return Some(Err(LoadError::LineTooLong { path: self.path.clone(), line: self.line }));
            }
            if self.buffer.trim_ascii().is_empty() {
                continue;
            }
            return match parse(&self.buffer, self.translation) {
                Ok(record) => Some(Ok(record)),
                Err(_) if !ended => {
                    self.cut_off = true;
                    None
                }
                Err(e) => {
                    let mend = "delete the line to report on the others, or repeat the run";
                    Some(Err(LoadError::Json { path: self.path.clone(), line: self.line, why: e.to_string(), mend }))
                }
            };
        }
    }
}
