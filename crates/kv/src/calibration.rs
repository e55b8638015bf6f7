//! The file in which `dualpool calibrate` leaves what copies cost, for later runs on the same machine. `docs/artifacts.md` describes it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use dualpool_machine::Machine;
use dualpool_types::records::replace_json;
use dualpool_types::{EngineId, UserError};

use super::cost::LinkCost;

/// The version of the file's keys.
pub const COPY_COSTS_SCHEMA: u32 = 2;

/// The version of how copy plans are laid out and carried out. Raised when `copy_plan` or a transport comes to copy in another way, so that
/// figures of the old way are not taken for the new one's.
pub const COPY_LAYOUT: u32 = 1;

/// What copies cost on one machine, for each ordered pair of memories that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyCosts {
    /// The version of the document.
    pub schema_version: u32,
    /// The version of how copy plans are laid out and carried out.
    pub layout: u32,
    /// The version of dualpool that measured.
    pub dualpool: String,
    /// When it measured: UTC, RFC 3339.
    pub measured_at: String,
    /// The machine that was measured.
    pub machine: Machine,
    /// The ordered pairs of memories.
    pub links: Vec<MeasuredLink>,
}

/// What copies cost from one memory to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeasuredLink {
    /// The source memory: a NUMA node, or the UUID of a GPU.
    pub from: String,
    /// The destination memory.
    pub to: String,
    /// The speed of the fastest large copy in one piece, in bytes per second.
    pub ceiling_bytes_per_s: f64,
    /// The median over plans of sizes that the fit has not seen: |predicted - measured| / measured.
    pub held_out_error: f64,
    /// The cost of each class of copy.
    pub classes: LinkCost,
}

#[derive(Debug, Error)]
pub enum CalibrationError {
    #[error("there is no calibration of copies at {}; `dualpool calibrate` makes one", path.display())]
    Missing { path: PathBuf },
    #[error("cannot read the calibration of copies {}: {why}; `dualpool calibrate` makes a new one", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error(
        "the calibration of copies {} is of another {what}: {theirs}, and here it is {ours}; `dualpool calibrate` makes one for here",
        path.display()
    )]
    Other { path: PathBuf, what: &'static str, theirs: String, ours: String },
    #[error("cannot write the calibration of copies {}: {source}; set kv.calibration to another path", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

impl UserError for CalibrationError {
    fn hint(&self) -> &'static str {
        "--calibration none runs without one"
    }
}

impl CopyCosts {
    /// Reads a file, and refuses one that says nothing of this machine or of the way this build copies.
    pub fn read(path: &Path, machine: &Machine) -> Result<CopyCosts, CalibrationError> {
        let unreadable = |why: String| CalibrationError::Unreadable { path: path.to_path_buf(), why };
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => CalibrationError::Missing { path: path.to_path_buf() },
            _ => unreadable(error.to_string()),
        })?;
        let other = |what, theirs: String, ours: String| CalibrationError::Other { path: path.to_path_buf(), what, theirs, ours };
        // Before all else: a file of another version may have other keys.
        let version: Version = serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
        if version.schema_version != COPY_COSTS_SCHEMA {
            return Err(other("file version", version.schema_version.to_string(), COPY_COSTS_SCHEMA.to_string()));
        }
        let costs: CopyCosts = serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
        if costs.layout != COPY_LAYOUT {
            return Err(other("layout of copies", costs.layout.to_string(), COPY_LAYOUT.to_string()));
        }
        match costs.machine.differences(machine).into_iter().next() {
            Some((what, theirs, ours)) => Err(other(what, theirs, ours)),
            None => Ok(costs),
        }
    }

    /// Readers see the file before or the file after, never a part.
    pub fn write(&self, path: &Path) -> Result<(), CalibrationError> {
        replace_json(path, self).map_err(|source| CalibrationError::Write { path: path.to_path_buf(), source })
    }

    /// The costs between the engines of a fleet, given the memory of each by `EngineId`. Pairs that were not measured are left out.
    pub fn between(&self, memories: &[String]) -> EngineLinks {
        let engines = || (0..).map(EngineId).zip(memories);
        let pairs = engines().flat_map(|from| engines().map(move |to| (from, to))).filter(|(from, to)| from.0 != to.0);
        let known = pairs.filter_map(|((from, source), (to, target))| {
            let link = self.links.iter().find(|link| link.from == *source && link.to == *target)?;
            Some(((from, to), link.classes.clone()))
        });
        known.collect()
    }
}

#[derive(Deserialize)]
struct Version {
    /// It was called `schema` in the first version.
    #[serde(alias = "schema")]
    schema_version: u32,
}

/// What copies cost between the engines of one fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineLinks(BTreeMap<(EngineId, EngineId), LinkCost>);

impl EngineLinks {
    pub fn get(&self, from: EngineId, to: EngineId) -> Option<&LinkCost> {
        self.0.get(&(from, to))
    }

    pub fn iter(&self) -> impl Iterator<Item = ((EngineId, EngineId), &LinkCost)> {
        self.0.iter().map(|(pair, cost)| (*pair, cost))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<((EngineId, EngineId), LinkCost)> for EngineLinks {
    fn from_iter<I: IntoIterator<Item = ((EngineId, EngineId), LinkCost)>>(links: I) -> EngineLinks {
        EngineLinks(links.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::cost::{ClassCost, CopyClass};
    use super::*;
    use dualpool_machine::Gpus;

    fn costs(machine: Machine) -> CopyCosts {
        let link = |from: &str, to: &str, submit_us| MeasuredLink {
            from: from.into(),
            to: to.into(),
            ceiling_bytes_per_s: 1e10,
            held_out_error: 0.1,
            classes: LinkCost::new([(CopyClass::Direct, ClassCost { submit_us, range_us: 0.1, bytes_per_s: 1e10 })].into())
                .unwrap(),
        };
        CopyCosts {
            schema_version: COPY_COSTS_SCHEMA,
            layout: COPY_LAYOUT,
            dualpool: "0.1.0".into(),
            measured_at: "2026-01-01T00:00:00Z".into(),
            machine,
            links: vec![link("NUMA node 0", "NUMA node 1", 1.0), link("NUMA node 1", "NUMA node 0", 2.0)],
        }
    }

    #[test]
    fn a_file_of_this_machine_comes_back_and_serves_engines_by_their_memory() {
        let (folder, machine) = (tempfile::tempdir().unwrap(), Machine::detect(&Gpus::default()));
        let path = folder.path().join("deep/calibration.json");
        let written = costs(machine.clone());
        written.write(&path).unwrap();
        assert_eq!(CopyCosts::read(&path, &machine).unwrap(), written);
        let memories = ["NUMA node 1", "NUMA node 0", "NUMA node 1"].map(String::from);
        let links = written.between(&memories);
        // Engines 0 and 2 share a node, of which nothing is known.
        assert_eq!(links.len(), 4);
        let submit = |from, to| links.get(EngineId(from), EngineId(to)).map(|link| link.classes()[&CopyClass::Direct].submit_us);
        assert_eq!((submit(0, 1), submit(1, 2), submit(0, 2)), (Some(2.0), Some(1.0), None));
    }

    #[test]
    fn what_is_not_of_this_machine_or_this_build_is_refused_by_name() {
        let (folder, here) = (tempfile::tempdir().unwrap(), Machine::detect(&Gpus::default()));
        let path = folder.path().join("calibration.json");
        let refused = |edit: &dyn Fn(&mut CopyCosts)| {
            let mut other = costs(here.clone());
            edit(&mut other);
            other.write(&path).unwrap();
            CopyCosts::read(&path, &here).unwrap_err().to_string()
        };
        for (said, words) in [
            (refused(&|c| c.schema_version = 7), ["another file version: 7", "here it is 2"]),
            (refused(&|c| c.layout = 0), ["another layout of copies: 0", "here it is 1"]),
            (refused(&|c| c.machine.cpu = "Z80".into()), ["another processor: Z80", here.cpu.as_str()]),
            (refused(&|c| c.machine.gpus = vec!["GPU-1 H200".into()]), ["another list of GPUs: GPU-1 H200", "here it is none"]),
        ] {
            assert!(words.iter().all(|word| said.contains(word)) && said.contains("dualpool calibrate"), "{said}");
        }
        std::fs::write(&path, r#"{"schema":1,"links":[]}"#).unwrap();
        let first = CopyCosts::read(&path, &here).unwrap_err().to_string();
        assert!(first.contains("another file version: 1, and here it is 2"), "{first}");
        std::fs::write(&path, r#"{"schema_version":2,"links":[]}"#).unwrap();
        assert!(matches!(CopyCosts::read(&path, &here), Err(CalibrationError::Unreadable { .. })));
        let missing = CopyCosts::read(&folder.path().join("none"), &here).unwrap_err();
        assert!(matches!(missing, CalibrationError::Missing { .. }) && missing.to_string().contains("dualpool calibrate"));
    }
}
