//! `topology.json`: what a machine is made of, and how far apart its parts are. `docs/artifacts.md` and `docs/schemas` describe
//! it for users.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Bytes, CpuList};

/// Raised whenever a reader of the old form would misread the new one.
pub const SCHEMA_VERSION: u32 = 1;

/// What a machine is made of, and how far apart its parts are. What is not known is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Topology {
    /// The version of the document.
    pub schema_version: u32,
    /// Where the facts come from.
    pub source: Source,
    /// The processors in their sockets.
    pub packages: Vec<Package>,
    /// The NUMA nodes, in the order of their numbers.
    pub numa_nodes: Vec<NumaNode>,
    /// The firmware's relative latencies (10 = local), row and column in the order of `numa_nodes`.
    pub numa_distances: Option<Vec<Vec<u64>>>,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
    /// Every ordered pair of two GPUs.
    pub links: Vec<Link>,
    /// Network interfaces and InfiniBand adapters on PCI.
    pub nics: Vec<Nic>,
    /// Where hwloc and NVML say different things.
    pub disagreements: Vec<Disagreement>,
    /// What is missing from this document, and why.
    pub notes: Vec<String>,
}

/// Where the document's facts come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// What was looked at.
    pub kind: SourceKind,
    /// The file, where it is one.
    pub file: Option<String>,
    /// The version of hwloc that looked at the machine.
    pub hwloc: Option<String>,
    /// The version of the NVIDIA driver; null when NVML was not asked or did not answer, which `notes` explains.
    pub nvidia_driver: Option<String>,
}

/// What the facts of a document were read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// The machine that dualpool ran on.
    Machine,
    /// A file that `lstopo` wrote, here or elsewhere.
    Xml,
}

/// A processor in its socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Package {
    /// The number that the operating system gives it.
    pub os_index: Option<u32>,
    /// The name of the processor.
    pub model: Option<String>,
    /// The number of its cores.
    pub cores: u32,
    /// Its hardware threads.
    pub cpus: CpuList,
    /// The NUMA nodes in it, by their numbers.
    pub numa_nodes: Vec<u32>,
}

/// Memory, and what is next to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NumaNode {
    /// The number that the operating system gives it.
    pub os_index: u32,
    /// The kind of its memory, such as `HBM` or `GPUMemory`, where hwloc names one.
    pub kind: Option<String>,
    /// The hardware threads next to it; empty for memory without CPUs of its own.
    pub cpus: CpuList,
    /// The number of cores next to it.
    pub cores: u32,
    /// The size of its memory in bytes.
    pub memory_bytes: Option<Bytes>,
}

/// A GPU, and what is next to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// NVML's own index for GPUs that it knows; the others come after.
    pub index: u32,
    /// The vendor.
    pub vendor: String,
    /// The name of its model.
    pub name: Option<String>,
    /// Its UUID, as NVML knows it.
    pub uuid: Option<String>,
    /// Its address on PCI, such as `0000:11:00.0`.
    #[schemars(regex(pattern = "^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\\.[0-9a-f]$"))]
    pub pci_bus_id: Option<String>,
    /// Vendor and device on PCI, such as `10de:2335`.
    #[schemars(regex(pattern = "^[0-9a-f]{4}:[0-9a-f]{4}$"))]
    pub pci_id: Option<String>,
    /// The size of its memory in bytes.
    pub memory_bytes: Option<Bytes>,
    /// Its compute capability, such as `9.0`.
    pub compute_capability: Option<String>,
    /// Whether it is divided into instances.
    pub mig: Mig,
    /// The NUMA node whose CPUs are next to it; null where it is next to several, or it is not known.
    pub numa_node: Option<u32>,
    /// The CPUs next to it.
    pub cpus: CpuList,
    /// Where its NVLinks lead to; null when it is not known.
    pub nvlinks: Option<Vec<NvLinkPeer>>,
    /// All NICs, the closest first.
    pub nics: Vec<NearNic>,
}

/// Whether a GPU is divided into instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mig {
    /// It is divided.
    Enabled,
    /// It could be divided and is not.
    Disabled,
    /// It cannot be divided.
    NotSupported,
    /// It is not known.
    Unknown,
}

/// All NVLinks of a GPU that lead to the same place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NvLinkPeer {
    /// What they lead to.
    pub to: NvLinkEnd,
    /// The address of what they lead to on PCI.
    #[schemars(regex(pattern = "^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\\.[0-9a-f]$"))]
    pub pci_bus_id: Option<String>,
    /// The number of links; null where only their bandwidth is known, and not that of one.
    #[schemars(range(min = 1))]
    pub links: Option<u32>,
    /// The generation of NVLink, such as `4.0`.
    pub version: Option<String>,
    /// The nominal bandwidth of all links together in bytes per second, one way.
    #[schemars(range(min = 1))]
    pub bytes_per_s: Option<u64>,
}

/// What an NVLink leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NvLinkEnd {
    /// Another GPU.
    Gpu,
    /// An NVSwitch.
    NvSwitch,
    /// A processor.
    Cpu,
}

/// The way from one GPU to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Link {
    /// The index of the one GPU.
    pub from: u32,
    /// The index of the other GPU.
    pub to: u32,
    /// The closest thing on PCIe that both are below; null when it is not known.
    pub path: Option<PciPath>,
    /// The NVLinks between the two; null when there are none, or it is not known, which `nvlinks` of the two GPUs tells.
    pub nvlink: Option<NvLink>,
    /// What the driver allows; null when there was no driver to ask.
    pub p2p: Option<P2p>,
    /// A large copy between the two; null when it was not measured.
    pub measured: Option<Measured>,
}

/// The NVLinks between two GPUs, direct or through switches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NvLink {
    /// What the links lead through: `gpu` when they are direct.
    pub through: NvLinkEnd,
    /// The number of links; null where only their bandwidth is known.
    #[schemars(range(min = 1))]
    pub links: Option<u32>,
    /// The generation of NVLink, such as `4.0`.
    pub version: Option<String>,
    /// The nominal bandwidth of all links together in bytes per second, one way.
    #[schemars(range(min = 1))]
    pub bytes_per_s: Option<u64>,
}

/// What the driver allows between two GPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct P2p {
    /// Whether the one may read the other's memory.
    pub read: bool,
    /// Whether the one may write the other's memory.
    pub write: bool,
    /// Whether atomic operations work there.
    pub atomics: bool,
    /// The driver's reason against the first of these that it refuses.
    pub why_not: Option<String>,
}

/// A large copy from one GPU to another, as it was timed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// The bytes that were copied.
    pub bytes: Bytes,
    /// The median speed in bytes per second.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub bytes_per_s: f64,
    /// Whether the bytes went over a link between the two; otherwise they went through host memory.
    pub peer_access: bool,
}

/// How two PCI devices reach each other, in `nvidia-smi`'s words; the closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum PciPath {
    /// There is at most one PCIe switch between them.
    Pix,
    /// There are several PCIe switches between them, and no host bridge.
    Pxb,
    /// There is a PCIe host bridge between them.
    Phb,
    /// There are several host bridges of one NUMA node between them.
    Node,
    /// The interconnect between NUMA nodes is between them.
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

/// A network interface, or an InfiniBand adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Nic {
    /// Its place in `nics`.
    pub index: u32,
    /// The names that the operating system gives it, such as `eth0` and `mlx5_0`.
    pub names: Vec<String>,
    /// Its address on PCI.
    #[schemars(regex(pattern = "^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\\.[0-9a-f]$"))]
    pub pci_bus_id: String,
    /// The NUMA node next to it.
    pub numa_node: Option<u32>,
    /// The path to each NIC, in the order of `nics`; null for itself and where it is not known.
    pub nic_paths: Vec<Option<PciPath>>,
}

/// A NIC, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NearNic {
    /// The index of the NIC.
    pub nic: u32,
    /// The path to it; null when it is not known.
    pub path: Option<PciPath>,
}

/// One fact, told in two ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Disagreement {
    /// What it is a fact of, such as `GPU0` or `GPU0 - GPU1`.
    pub of: String,
    /// The fact: `numa_node`, `cpus` or `path`.
    pub fact: String,
    /// What hwloc says.
    pub hwloc: String,
    /// What NVML says.
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
