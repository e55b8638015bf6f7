//! Lines of JSON to standard output and files in a folder, whichever are wanted.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{BufWriter, ErrorKind, Stdout, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use dualpool_report::measure::{longest_itl_ms, within_objectives};
use dualpool_report::simulated::{SIMULATION, Simulated};
use dualpool_types::records::{NoteRecord, Outcome, RequestRecord, replace_json};
use dualpool_types::{Class, EngineId, Failure, Micros};

use crate::folder::FolderError;

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

/// What is kept of a request: its figures, without its tokens.
#[derive(Serialize)]
struct RequestLine<'a> {
    kind: &'static str,
    simulated: bool,
    arm: &'a str,
    index: u32,
    class: Class,
    prompt_tokens: u32,
    output_tokens: usize,
    arrived_us: Micros,
    ttft_us: Option<Micros>,
    itl_us_max: Micros,
    ended_us: Micros,
    good: bool,
    /// The engines it was on, in order.
    engines: Vec<EngineId>,
    /// Prompt tokens that its first engine had in its prefix cache.
    cached_tokens: u32,
    kv_moves: usize,
    outcome: &'a Outcome,
}

#[derive(Serialize)]
struct NoteLine<'a> {
    kind: &'static str,
    simulated: bool,
    note: &'a NoteRecord,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    kind: &'static str,
    #[serde(flatten)]
    simulated: &'a Simulated,
}

impl<'a> RequestLine<'a> {
    fn of(record: &'a RequestRecord) -> RequestLine<'a> {
        RequestLine {
            kind: "request",
            simulated: true,
            arm: &record.arm,
            index: record.index,
            class: record.class,
            prompt_tokens: record.prompt_tokens,
            output_tokens: record.token_us.len(),
            arrived_us: record.arrived_us,
            ttft_us: record.token_us.first().map(|&at| at - record.arrived_us),
            itl_us_max: Micros::from_ms(longest_itl_ms(record)),
            ended_us: record.ended_us,
            good: within_objectives(record),
            engines: record.legs.iter().map(|leg| leg.engine).collect(),
            cached_tokens: record.legs.first().map_or(0, |leg| leg.cached_tokens),
            kv_moves: record.handoffs.iter().filter(|handoff| !handoff.recomputed).count(),
            outcome: &record.outcome,
        }
    }
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
        let line = RequestLine::of(record);
        self.say(&line)?;
        self.folder.as_mut().map_or(Ok(()), |folder| folder.wrote(|folder| write(&mut folder.requests, &line)))
    }

    pub(super) fn note(&mut self, note: &NoteRecord) -> Result<(), Failure> {
        self.say(&NoteLine { kind: "note", simulated: true, note })?;
        self.folder.as_mut().map_or(Ok(()), |folder| folder.wrote(|folder| folder.note(note)))
    }

    /// The figures, and the end of all files.
    pub(super) fn finish(mut self, simulated: &Simulated) -> Result<(), Failure> {
        self.say(&SummaryLine { kind: "summary", simulated })?;
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
        let failed = |source: std::io::Error| match source.kind() {
            ErrorKind::AlreadyExists => FolderError::Taken { path: path.clone() },
            _ => FolderError::Write { path: path.clone(), source },
        };
        create_dir_all(dir).map_err(|source| FolderError::Write { path: path.clone(), source })?;
        let requests = OpenOptions::new().write(true).create_new(true).open(dir.join("requests.jsonl")).map_err(failed)?;
        Ok(Folder { dir: path, requests: BufWriter::new(requests), decisions: None })
    }

    fn note(&mut self, note: &NoteRecord) -> std::io::Result<()> {
        let file = match self.decisions.take() {
            Some(file) => file,
            None => BufWriter::new(File::create(self.dir.join("decisions.jsonl"))?),
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
