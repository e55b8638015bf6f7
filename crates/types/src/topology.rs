//! `topology.json`: what a machine is made of, and how far apart its parts are. `docs/artifacts.md` and `docs/topology.schema.json` describe
//! it for users.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Bytes, CpuList};

/// Raised whenever a reader of the old form would misread the new one.
pub const SCHEMA_VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    pub schema_version: u32,
    pub source: Source,
    pub packages: Vec<Package>,
    pub numa_nodes: Vec<NumaNode>,
    /// The firmware's relative latencies (10 = local), row and column in the order of `numa_nodes`.
    pub numa_distances: Option<Vec<Vec<u64>>>,
    pub gpus: Vec<Gpu>,
    /// Every ordered pair of two GPUs.
    pub links: Vec<Link>,
    pub nics: Vec<Nic>,
    /// Where hwloc and NVML say different things.
    pub disagreements: Vec<Disagreement>,
    /// What a reader should know of this document: what is missing from it, and why.
    pub notes: Vec<String>,
}

/// Where the document's facts come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub kind: SourceKind,
    /// The file, where it is one.
    pub file: Option<String>,
    /// The version of hwloc that looked at the machine.
    pub hwloc: Option<String>,
    /// The NVIDIA driver's version; null = NVML was not asked or did not answer, which `notes` explains.
    pub nvidia_driver: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// The machine that this program ran on.
    Machine,
    /// A file that `lstopo` wrote, here or elsewhere.
    Xml,
}

/// A processor in its socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Package {
    pub os_index: Option<u32>,
    pub model: Option<String>,
    pub cores: u32,
    pub cpus: CpuList,
    pub numa_nodes: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NumaNode {
    pub os_index: u32,
    /// `HBM`, `GPUMemory` and the like, where hwloc names it.
    pub kind: Option<String>,
    /// Hardware threads; empty for memory without CPUs of its own.
    pub cpus: CpuList,
    pub cores: u32,
    pub memory_bytes: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// NVML's own index for GPUs that it knows; the others come after.
    pub index: u32,
    pub vendor: String,
    pub name: Option<String>,
    pub uuid: Option<String>,
    /// `0000:11:00.0`.
    pub pci_bus_id: Option<String>,
    /// `10de:2335`, vendor and device.
    pub pci_id: Option<String>,
    pub memory_bytes: Option<Bytes>,
    /// `9.0`.
    pub compute_capability: Option<String>,
    pub mig: Mig,
    /// The NUMA node whose CPUs are next to it; null where it is next to several, or it is not known.
    pub numa_node: Option<u32>,
    /// The CPUs next to it.
    pub cpus: CpuList,
    /// Where its NVLinks lead to; null = not known.
    pub nvlinks: Option<Vec<NvLinkPeer>>,
    /// All NICs, the closest first.
    pub nics: Vec<NearNic>,
}

/// Whether a GPU is divided into instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mig {
    Enabled,
    Disabled,
    NotSupported,
    Unknown,
}

/// All NVLinks of a GPU that lead to the same place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvLinkPeer {
    pub to: NvLinkEnd,
    pub pci_bus_id: Option<String>,
    /// Null where only their bandwidth is known, and not that of one.
    pub links: Option<u32>,
    /// NVLink generation, `4.0`.
    pub version: Option<String>,
    /// Nominal, one way, all links together.
    pub bytes_per_s: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NvLinkEnd {
    Gpu,
    NvSwitch,
    Cpu,
}

/// From one GPU to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    pub from: u32,
    pub to: u32,
    /// The closest thing on PCIe that both are below; null = not known.
    pub path: Option<PciPath>,
    /// Null = none, or not known; `nvlinks` of the two GPUs tells which.
    pub nvlink: Option<NvLink>,
    /// What the driver allows; null = it was not asked.
    pub p2p: Option<P2p>,
    /// Null = not measured.
    pub measured: Option<Measured>,
}

/// The NVLinks between two GPUs, direct or through switches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvLink {
    pub through: NvLinkEnd,
    pub links: Option<u32>,
    pub version: Option<String>,
    /// Nominal, one way.
    pub bytes_per_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct P2p {
    pub read: bool,
    pub write: bool,
    pub atomics: bool,
    /// The driver's reason against the first of these that it refuses.
    pub why_not: Option<String>,
}

/// A large copy, as it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub bytes: Bytes,
    pub bytes_per_s: f64,
    /// Whether the bytes went over a link between the two; otherwise through host memory.
    pub peer_access: bool,
}

/// How two PCI devices reach each other, in `nvidia-smi`'s words; the closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PciPath {
    Pix,
    Pxb,
    Phb,
    Node,
    Sys,
}

impl PciPath {
    pub const ALL: [PciPath; 5] = [PciPath::Sys, PciPath::Node, PciPath::Phb, PciPath::Pxb, PciPath::Pix];

    pub fn meaning(self) -> &'static str {
        match self {
            PciPath::Pix => "at most one PCIe switch between them",
            PciPath::Pxb => "several PCIe switches, but no host bridge",
            PciPath::Phb => "a PCIe host bridge",
            PciPath::Node => "several host bridges of one NUMA node",
            PciPath::Sys => "the interconnect between NUMA nodes",
        }
    }
}

impl fmt::Display for PciPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PciPath::Pix => "PIX",
            PciPath::Pxb => "PXB",
            PciPath::Phb => "PHB",
            PciPath::Node => "NODE",
            PciPath::Sys => "SYS",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    pub index: u32,
    /// The names the operating system gives it: `eth0`, `mlx5_0`.
    pub names: Vec<String>,
    pub pci_bus_id: String,
    pub numa_node: Option<u32>,
    /// To each NIC, in the order of `nics`; null for itself and where it is not known.
    pub nic_paths: Vec<Option<PciPath>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearNic {
    pub nic: u32,
    pub path: Option<PciPath>,
}

/// One fact, told in two ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disagreement {
    /// `GPU0`, `GPU0 - GPU1`.
    pub of: String,
    /// `numa_node`, `cpus`, `path`.
    pub fact: String,
    pub hwloc: String,
    pub nvml: String,
    /// Which of the two the document has.
    pub taken: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Disagreement { of, fact, hwloc, nvml, taken } = self;
        write!(f, "{of}: {fact} is {hwloc} for hwloc and {nvml} for NVML; {taken} is believed")
    }
}

impl Topology {
    /// From one GPU to another, by their indices.
    pub fn link(&self, from: u32, to: u32) -> Option<&Link> {
        self.links.iter().find(|link| (link.from, link.to) == (from, to))
    }

    pub fn gpu_of_uuid(&self, uuid: &str) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.uuid.as_deref() == Some(uuid))
    }

    pub fn node(&self, os_index: u32) -> Option<&NumaNode> {
        self.numa_nodes.iter().find(|node| node.os_index == os_index)
    }
}
