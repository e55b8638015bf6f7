//! Lines of JSON to standard output and files in a folder, whichever are wanted.

use std::fs::{File, create_dir_all};
use std::io::{BufWriter, ErrorKind, Stdout, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use dualpool_report::simulated::{SIMULATED_REQUESTS, SIMULATION, Simulated, SimulatedRequest};
use dualpool_types::Failure;
use dualpool_types::records::{NoteRecord, RequestRecord, replace_json};

use crate::folder::{DECISIONS, FolderError, create_records};

pub(super) struct Output {
    lines: Option<BufWriter<Stdout>>,
    folder: Option<Folder>,
}

struct Folder {
    dir: PathBuf,
    requests: BufWriter<File>,
    /// Made with the first note.
    decisions: Option<BufWriter<File>>,
}

#[derive(Serialize)]
struct NoteLine<'a> {
    kind: &'static str,
    simulated: bool,
    note: &'a NoteRecord,
}

/// A record of a file as a line of standard output.
#[derive(Serialize)]
struct Line<'a, T> {
    kind: &'static str,
    #[serde(flatten)]
    of: &'a T,
}

impl Output {
    /// Fails when the folder cannot be written or holds a run already.
    pub(super) fn open(lines: bool, dir: Option<&Path>) -> Result<Output, FolderError> {
        let folder = dir.map(Folder::create).transpose()?;
        Ok(Output { lines: lines.then(|| BufWriter::new(stdout())), folder })
    }

    pub(super) fn request(&mut self, record: &RequestRecord) -> Result<(), Failure> {
        if self.lines.is_none() && self.folder.is_none() {
            return Ok(());
        }
        let request = SimulatedRequest::of(record);
        self.say(&Line { kind: "request", of: &request })?;
        self.folder.as_mut().map_or(Ok(()), |folder| folder.wrote(|folder| write(&mut folder.requests, &request)))
    }

    pub(super) fn note(&mut self, note: &NoteRecord) -> Result<(), Failure> {
        self.say(&NoteLine { kind: "note", simulated: true, note })?;
        self.folder.as_mut().map_or(Ok(()), |folder| folder.wrote(|folder| folder.note(note)))
    }

    /// The figures, and the end of all files.
    pub(super) fn finish(mut self, simulated: &Simulated) -> Result<(), Failure> {
        self.say(&Line { kind: "summary", of: simulated })?;
        if let Some(lines) = &mut self.lines {
            shown(lines.flush())?;
        }
        if let Some(mut folder) = self.folder {
            folder.wrote(|folder| {
                folder.requests.flush()?;
                folder.decisions.as_mut().map_or(Ok(()), Write::flush)?;
                replace_json(&folder.dir.join(SIMULATION), simulated)
            })?;
        }
        Ok(())
    }

    fn say(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        self.lines.as_mut().map_or(Ok(()), |lines| shown(write(lines, line)))
    }
}

/// A reader such as `head` that has seen enough is no failure.
fn shown(written: std::io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written.context("cannot write to standard output")?),
    }
}

impl Folder {
    fn create(dir: &Path) -> Result<Folder, FolderError> {
        let path = dir.to_path_buf();
        create_dir_all(dir).map_err(|source| FolderError::Write { path: path.clone(), source })?;
        let requests = create_records(dir, SIMULATED_REQUESTS)?;
        Ok(Folder { dir: path, requests, decisions: None })
    }

    fn note(&mut self, note: &NoteRecord) -> std::io::Result<()> {
        let file = match self.decisions.take() {
            Some(file) => file,
            None => BufWriter::new(File::create(self.dir.join(DECISIONS))?),
        };
        write(self.decisions.insert(file), note)
    }

    fn wrote(&mut self, write: impl FnOnce(&mut Folder) -> std::io::Result<()>) -> Result<(), Failure> {
        let path = self.dir.clone();
        write(self).map_err(|source| FolderError::Write { path, source }.into())
    }
}

fn write(file: &mut impl Write, line: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *file, line)?;
    file.write_all(b"\n")
}
