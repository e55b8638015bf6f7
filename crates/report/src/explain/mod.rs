//! Why requests went where they went: `decisions.jsonl` of a run or a simulation, summed up by arm or told request by request.
//!
//! Both files that it reads are read line by line. What is kept are sums by arm, engine, policy and term, or the few decisions about one
//! request: memory does not grow with the lines. Which term decided follows from the terms that the policies noted while they decided and
//! from the weights that the run was given; nothing is predicted again here.

mod evidence;
mod fates;
mod moments;
mod request;
mod tally;
mod text;

use std::path::{Path, PathBuf};

use thiserror::Error;

use dualpool_router::ScoreSettings;
use dualpool_types::records::NoteRecord;
use dualpool_types::{USAGE, UserError};

use super::lines::Lines;
use super::load::document;
use super::simulated::SIMULATED_REQUESTS;
use super::{LoadError, Overview};
use evidence::Weights;
use fates::Fate;
use tally::Tally;

pub use request::told;
pub use text::table;

const DECISIONS: &str = "decisions.jsonl";
const REQUESTS: &str = "requests.jsonl";
const PLACEMENTS_TAKE: &str = "No placement was noted: that takes --explain.\n";

#[derive(Debug, Error)]
pub enum ExplainError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(
        "{} has no decisions.jsonl: the router noted nothing there; repeat the run or the simulation with --explain", .0.display()
    )]
    NothingNoted(PathBuf),
    #[error("{} knows of no request at all; give the folder of a run that served some", .0.display())]
    NoRequests(PathBuf),
    #[error("there is no request {request} in {}; its requests are {first} to {last}", folder.display())]
    UnknownRequest { folder: PathBuf, request: u64, first: u64, last: u64 },
}

impl UserError for ExplainError {
    fn exit_code(&self) -> u8 {
        match self {
            ExplainError::Load(error) => error.exit_code(),
            _ => USAGE,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            ExplainError::Load(error) => error.hint(),
            _ => "docs/routing.md says what is noted, and when",
        }
    }
}

/// What the router did, by arm.
#[derive(Debug)]
pub struct Explained {
    /// The workload, where the run had several.
    workload: Option<String>,
    arms: Vec<(String, Tally)>,
    weights: Option<ScoreSettings>,
    /// What the reader should know of the files.
    notes: Vec<String>,
}

/// All of a run, workload by workload.
pub fn explain(dir: &Path) -> Result<Vec<Explained>, ExplainError> {
    let mut all = Vec::new();
    for workload in workloads(dir)? {
        all.extend(explain_workload(&workload)?);
    }
    if all.is_empty() { Err(ExplainError::NothingNoted(dir.into())) } else { Ok(all) }
}

/// A folder with the files of one workload.
struct WorkloadFolder {
    name: Option<String>,
    dir: PathBuf,
}

impl WorkloadFolder {
    /// What became of its requests; none where no file says it. Simulations of the version before have it in a run's file.
    fn fates(&self) -> Result<Option<Lines<Fate>>, LoadError> {
        let simulated = Lines::open(&self.dir, SIMULATED_REQUESTS)?;
        if simulated.is_some() { Ok(simulated) } else { Lines::open(&self.dir, REQUESTS) }
    }
}

fn workloads(dir: &Path) -> Result<Vec<WorkloadFolder>, LoadError> {
    if !dir.is_dir() {
        return Err(LoadError::NotAFolder(dir.into()));
    }
    let Some(Overview { workloads, .. }) = Overview::read(dir)? else {
        return Ok(vec![WorkloadFolder { name: None, dir: dir.into() }]);
    };
    // Each is one folder in this one: a name that leads elsewhere is none of ours.
    let folder =
        |name: String| WorkloadFolder { dir: dir.join(Path::new(&name).file_name().unwrap_or_default()), name: Some(name) };
    Ok(workloads.into_iter().map(folder).collect())
}

/// None where the router noted nothing.
fn explain_workload(folder: &WorkloadFolder) -> Result<Option<Explained>, ExplainError> {
    let Some(mut decisions) = Lines::<NoteRecord>::open(&folder.dir, DECISIONS)? else { return Ok(None) };
    let (weights, mut notes) = (weights(&folder.dir)?, Vec::new());
    let mut arms = Vec::new();
    for record in decisions.by_ref() {
        let record = record?;
        of_arm(&mut arms, &record.arm).note(&record.note, Weights(weights.as_ref()));
    }
    notes.extend(decisions.cut_off());
    match folder.fates()? {
        None => notes.push(format!("There is no {REQUESTS}: what became of requests is not known.")),
        Some(mut fates) => {
            for fate in fates.by_ref() {
                let fate = fate?;
                of_arm(&mut arms, &fate.arm).fate(&fate);
            }
            notes.extend(fates.cut_off());
        }
    }
    if arms.iter().all(|(_, tally)| tally.placements == 0) {
        notes.push(PLACEMENTS_TAKE.trim_end().into());
    }
    Ok(Some(Explained { workload: folder.name.clone(), arms, weights, notes }))
}

/// Arms follow each other in the files, so the last one is looked at first.
fn of_arm<'a>(arms: &'a mut Vec<(String, Tally)>, name: &str) -> &'a mut Tally {
    let at = arms.iter().rposition(|(arm, _)| arm == name).unwrap_or_else(|| {
        arms.push((name.to_string(), Tally::default()));
        arms.len() - 1
    });
    &mut arms[at].1
}

/// The weights of policy `score` in this run or simulation; none where neither file is there or says them.
fn weights(dir: &Path) -> Result<Option<ScoreSettings>, LoadError> {
    let mend = "repeat the run, or use the dualpool version that wrote it";
    for (file, place) in [("run.json", "/settings/router/score"), (super::simulated::SIMULATION, "/router/score")] {
        let said: Option<serde_json::Value> = document(&dir.join(file), mend)?;
        if let Some(weights) = said.as_ref().and_then(|said| said.pointer(place)) {
            return Ok(serde_json::from_value(weights.clone()).ok());
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
