//! What this machine, or the one that a file shows, is made of: hwloc's tree for processors, memory and PCI, NVML for the GPUs, and
//! each checked against the other where both know.

mod bitmap;
mod bus_id;
mod cpu;
mod gpus;
mod links;
mod measure;
mod notes;
mod nvlink;
mod nvml;
mod pci;
mod tree;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use hwlocality::topology::builder::TypeFilter;
use hwlocality::topology::export::xml::XMLExportFlags;
use thiserror::Error;

use dualpool_types::Bytes;
use dualpool_types::topology::{NumaNode, SCHEMA_VERSION, Source, SourceKind, Topology};

use nvml::Facts;
use pci::PciDevice;
use tree::Tree;

pub use measure::measure;
pub use tree::XmlError;

#[derive(Debug, Error)]
pub enum TopologyError {
    #[error("{}: cannot be read: {source}; name a file that `lstopo FILE.xml` wrote", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: is larger than {FILE_MAX}, and no topology is; name a file that `lstopo FILE.xml` wrote", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Xml { path: PathBuf, source: XmlError },
    #[error("hwloc cannot read this machine: {why}; `lstopo` shows whether it can at all")]
    Machine { why: String },
}

/// Some ten times what the largest machines take.
const FILE_MAX: Bytes = Bytes(64 << 20);

/// The machine this runs on. `nvml_library` is the NVML library to load; none = where the system's loader finds it.
pub fn of_machine(nvml_library: Option<&OsStr>) -> Result<Topology, TopologyError> {
    let xml = look().map_err(|why| TopologyError::Machine { why })?;
    let tree = Tree::parse(&xml).map_err(|error| TopologyError::Machine { why: error.to_string() })?;
    let nvml = nvml::ask(nvml_library).map_or_else(|why| NvmlState::Silent { why }, NvmlState::Answered);
    let source = Source {
        kind: SourceKind::Machine,
        file: None,
        hwloc: tree.hwloc_version().map(str::to_owned),
        nvidia_driver: nvml.facts().and_then(|facts| facts.driver.clone()),
    };
    assemble(&tree, source, &nvml).map_err(|error| TopologyError::Machine { why: error.to_string() })
}

/// The machine that a file of `lstopo` shows.
pub fn of_file(path: &Path) -> Result<Topology, TopologyError> {
    let read = |source| TopologyError::Read { path: path.to_path_buf(), source };
    let mut bytes = Vec::new();
    // Bounded while it is read: a pipe or a device does not say how much it has.
    File::open(path).and_then(|file| file.take(FILE_MAX.0 + 1).read_to_end(&mut bytes)).map_err(read)?;
    if bytes.len() as u64 > FILE_MAX.0 {
        return Err(TopologyError::TooLarge { path: path.to_path_buf() });
    }
    of_xml(&String::from_utf8_lossy(&bytes), Some(path.display().to_string()))
        .map_err(|source| TopologyError::Xml { path: path.to_path_buf(), source })
}

/// The machine that hwloc's XML shows; `file` is what the document says it came from.
pub fn of_xml(text: &str, file: Option<String>) -> Result<Topology, XmlError> {
    let tree = Tree::parse(text)?;
    let source = Source { kind: SourceKind::Xml, file, hwloc: tree.hwloc_version().map(str::to_owned), nvidia_driver: None };
    assemble(&tree, source, &NvmlState::OnlyAFile)
}

/// hwloc's look at this machine, as it writes it into files.
fn look() -> Result<String, String> {
    // Without the filter hwloc leaves PCI devices out.
    let topology = hwlocality::Topology::builder().with_io_type_filter(TypeFilter::KeepImportant).map_err(|e| e.to_string())?;
    let topology = topology.build().map_err(|e| e.to_string())?;
    let xml = topology.export_xml(XMLExportFlags::empty()).map_err(|e| e.to_string())?;
    Ok(xml.to_string())
}

/// A machine's parts as hwloc shows them.
struct Seen<'t> {
    tree: &'t Tree<'t>,
    nodes: Vec<NumaNode>,
    gpus: Vec<PciDevice<'t>>,
    nics: Vec<PciDevice<'t>>,
}

/// What NVML says of the GPUs, or why it says nothing.
enum NvmlState {
    Answered(Facts),
    Silent {
        why: String,
    },
    /// A file has nothing but what hwloc wrote.
    OnlyAFile,
}

impl NvmlState {
    fn facts(&self) -> Option<&Facts> {
        match self {
            NvmlState::Answered(facts) => Some(facts),
            NvmlState::Silent { .. } | NvmlState::OnlyAFile => None,
        }
    }
}

fn assemble(tree: &Tree, source: Source, nvml: &NvmlState) -> Result<Topology, XmlError> {
    let nodes = cpu::numa_nodes(tree)?;
    let numa_distances = cpu::numa_distances(tree, &nodes)?;
    let seen = Seen { gpus: pci::gpus(tree, &nodes), nics: pci::nics(tree, &nodes), tree, nodes };
    let found = gpus::merge(&seen, nvml.facts())?;
    let mut notes = tree.notes.clone();
    notes.extend(nvml.facts().iter().flat_map(|facts| facts.notes.clone()));
    notes.extend(notes::notes(&seen, &found, nvml, numa_distances.is_some()));
    let (links, mut disagreements) = links::between_gpus(&seen, &found, nvml.facts());
    notes.extend(notes::of_links(&found.gpus, &links));
    disagreements.splice(0..0, found.disagreements);
    Ok(Topology {
        schema_version: SCHEMA_VERSION,
        source,
        packages: cpu::packages(tree, &seen.nodes),
        numa_distances,
        gpus: found.gpus,
        links,
        nics: links::nics(&seen),
        disagreements,
        notes,
        numa_nodes: seen.nodes,
    })
}
