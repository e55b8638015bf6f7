//! What the driver says of the GPUs. Every question may go unanswered - an old driver, a GPU that lacks the feature, one that has
//! fallen off the bus - and costs its own answer only.

use std::collections::BTreeMap;
use std::ffi::{OsStr, c_ulong};

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus, TopologyLevel};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::sys_exports::field_id::NVML_FI_DEV_NVLINK_GET_SPEED;

use dualpool_types::topology::{Mig, NvLinkEnd, NvLinkPeer, P2p, PciPath};
use dualpool_types::{Bytes, CpuList};

use super::bus_id::PciBusId;
use super::nvlink::{MB, of_nvml_version, rate_of_model};
use crate::gpu;
use crate::nvml::field_values;

pub(super) struct Facts {
    pub driver: Option<String>,
    pub gpus: Vec<NvmlGpu>,
    /// By places in `gpus`, from and to.
    pub pairs: BTreeMap<(usize, usize), Pair>,
    /// What could not be asked at all.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct NvmlGpu {
    pub index: u32,
    pub bus_id: PciBusId,
    pub pci_id: String,
    pub uuid: Option<String>,
    pub name: Option<String>,
    pub memory: Option<Bytes>,
    pub compute_capability: Option<String>,
    pub mig: Mig,
    pub cpus: Option<CpuList>,
    pub numa_nodes: Option<CpuList>,
    pub nvlinks: Option<Vec<NvLinkPeer>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Pair {
    pub path: Option<PciPath>,
    pub p2p: Option<P2p>,
}

/// The kernel's own limits; NVML fills what it is given.
const CPU_WORDS: usize = 8192 / c_ulong::BITS as usize;
const NODE_WORDS: usize = 1024 / c_ulong::BITS as usize;
/// NVML_AFFINITY_SCOPE_NODE.
const WITHIN_NODE: u32 = 0;
/// NVML_NVLINK_MAX_LINKS.
const LINKS_MAX: u32 = 18;
const IBM: u32 = 0x1014;

/// Asks all there is to ask. `library` is the NVML library to load; none = where the system's loader finds it. The error says why
/// NVML cannot be asked.
pub(super) fn ask(library: Option<&OsStr>) -> Result<Facts, String> {
    let nvml = gpu::open(library).map_err(|error| gpu::explained(&error))?;
    let count = nvml.device_count().map_err(|error| gpu::explained(&error))?;
    let mut facts = Facts { driver: nvml.sys_driver_version().ok(), gpus: Vec::new(), pairs: BTreeMap::new(), notes: Vec::new() };
    let mut devices = Vec::new();
    for index in 0..count {
        match nvml.device_by_index(index).and_then(|device| Ok((bus_id(&device)?, device))) {
            Ok((Some((bus_id, pci_id)), device)) => {
                if matches!(device.memory_info(), Err(NvmlError::GpuLost)) {
                    facts
                        .notes
                        .push(format!("GPU{index} is lost: the driver cannot reach it any more; only a reset brings it back"));
                }
                facts.gpus.push(describe(index, bus_id, pci_id, &device));
                devices.push(device);
            }
            Ok((None, _)) => facts.notes.push(format!("GPU{index} is left out: NVML gives it no PCI address that can be read")),
            Err(error) => facts.notes.push(format!("GPU{index} is left out: NVML cannot reach it: {error}")),
        }
    }
    let ids: Vec<PciBusId> = facts.gpus.iter().map(|gpu| gpu.bus_id).collect();
    for (gpu, device) in facts.gpus.iter_mut().zip(&devices) {
        gpu.nvlinks = nvlinks(device, &ids);
    }
    for (from, a) in devices.iter().enumerate() {
        for (to, b) in devices.iter().enumerate().filter(|(to, _)| *to != from) {
            // The wrapper takes the second device by value, and devices cannot be copied.
            let level = nvml.device_by_index(facts.gpus[to].index).and_then(|b| a.topology_common_ancestor(b));
            facts.pairs.insert((from, to), Pair { path: level.ok().map(path), p2p: p2p(a, b) });
        }
    }
    Ok(facts)
}

fn bus_id(device: &Device) -> Result<Option<(PciBusId, String)>, NvmlError> {
    let pci = device.pci_info()?;
    let pci_id = format!("{:04x}:{:04x}", pci.pci_device_id & 0xffff, pci.pci_device_id >> 16);
    Ok(pci.bus_id.parse().ok().map(|id| (id, pci_id)))
}

fn describe(index: u32, bus_id: PciBusId, pci_id: String, device: &Device) -> NvmlGpu {
    NvmlGpu {
        index,
        bus_id,
        pci_id,
        uuid: device.uuid().ok(),
        name: device.name().ok(),
        memory: device.memory_info().ok().map(|memory| Bytes(memory.total)),
        compute_capability: device.cuda_compute_capability().ok().map(|cc| format!("{}.{}", cc.major, cc.minor)),
        mig: match device.mig_mode() {
            Ok(mode) if mode.current != 0 => Mig::Enabled,
            Ok(_) => Mig::Disabled,
            Err(NvmlError::NotSupported) => Mig::NotSupported,
            Err(_) => Mig::Unknown,
        },
        cpus: device.cpu_affinity(CPU_WORDS).ok().map(|words| numbers(&words)).filter(|cpus| !cpus.is_empty()),
        numa_nodes: device.memory_affinity(NODE_WORDS, WITHIN_NODE).ok().map(|words| numbers(&words)).filter(|set| !set.is_empty()),
        nvlinks: None,
    }
}

fn numbers(words: &[c_ulong]) -> CpuList {
    let bits = words.iter().zip(0..).flat_map(|(word, place)| {
        let set = (0..c_ulong::BITS).filter(move |bit| word >> bit & 1 == 1);
        set.map(move |bit| place * c_ulong::BITS + bit)
    });
    bits.collect()
}

struct ActiveLink {
    /// NVML's number for it.
    version: Option<u32>,
    /// One way.
    bytes_per_s: Option<u64>,
}

/// The active links, those to the same place as one; none where the driver does not say.
fn nvlinks(device: &Device, gpus: &[PciBusId]) -> Option<Vec<NvLinkPeer>> {
    let model = device.name().ok();
    let mut peers: BTreeMap<(NvLinkEnd, Option<PciBusId>), Vec<ActiveLink>> = BTreeMap::new();
    for (number, link) in (0..LINKS_MAX).map(|number| (number, device.link_wrapper_for(number))) {
        match link.is_active() {
            Ok(true) => {}
            // A chip without NVLink answers with the one, and with the other about links that it has not.
            Ok(false) | Err(NvmlError::NotSupported | NvmlError::InvalidArg) => continue,
            Err(_) => return None,
        }
        let remote = link.remote_pci_info().ok();
        let bus_id = remote.as_ref().and_then(|pci| pci.bus_id.parse::<PciBusId>().ok());
        let end = match (&remote, bus_id) {
            (_, Some(id)) if gpus.contains(&id) => NvLinkEnd::Gpu,
            (Some(pci), _) if pci.pci_device_id & 0xffff == IBM => NvLinkEnd::Cpu,
            // Virtual machines hide the switches' addresses; NVLinks of NVIDIA's own lead nowhere else.
            _ => NvLinkEnd::NvSwitch,
        };
        let version = link.version().ok();
        let by_table = || model.as_deref().and_then(rate_of_model).or_else(|| Some(of_nvml_version(version?)?.1));
        peers.entry((end, bus_id)).or_default().push(ActiveLink { version, bytes_per_s: speed(device, number).or_else(by_table) });
    }
    let peer = |((to, bus_id), links): ((NvLinkEnd, Option<PciBusId>), Vec<ActiveLink>)| {
        let version = links.first().and_then(|link| of_nvml_version(link.version?));
        NvLinkPeer {
            to,
            pci_bus_id: bus_id.map(|id| id.to_string()),
            links: Some(links.len() as u32),
            version: version.map(|(version, _)| version.to_owned()),
            bytes_per_s: links.iter().map(|link| link.bytes_per_s).sum(),
        }
    };
    Some(peers.into_iter().map(peer).collect())
}

/// What the driver says of one link, one way, in bytes per second. Older ones do not.
fn speed(device: &Device, link: u32) -> Option<u64> {
    let [mb_per_s] = field_values(device, [(NVML_FI_DEV_NVLINK_GET_SPEED, link)]).ok()?;
    mb_per_s.filter(|mb| *mb > 0)?.checked_mul(MB)
}

fn path(level: TopologyLevel) -> PciPath {
    match level {
        TopologyLevel::Internal | TopologyLevel::Single => PciPath::Pix,
        TopologyLevel::Multiple => PciPath::Pxb,
        TopologyLevel::HostBridge => PciPath::Phb,
        TopologyLevel::Node => PciPath::Node,
        TopologyLevel::System => PciPath::Sys,
    }
}

fn p2p(a: &Device, b: &Device) -> Option<P2p> {
    let ask = |what| a.p2p_status(b, what).ok();
    let answers = [
        ("read", ask(P2pCapabilitiesIndex::Read)?),
        ("write", ask(P2pCapabilitiesIndex::Write)?),
        ("atomics", ask(P2pCapabilitiesIndex::Atomics)?),
    ];
    let [read, write, atomics] = answers.map(|(_, status)| status == P2pStatus::Ok);
    let refused = answers.into_iter().find(|(_, status)| *status != P2pStatus::Ok);
    Some(P2p { read, write, atomics, why_not: refused.map(|(what, status)| format!("{what}: {}", reason(status))) })
}

fn reason(status: P2pStatus) -> &'static str {
    match status {
        P2pStatus::Ok => "it works",
        P2pStatus::ChipsetNotSupported => "the chipset does not support it",
        P2pStatus::GpuNotSupported => "the GPU does not support it",
        P2pStatus::IohTopologyNotSupported => "the I/O hub between them does not support it",
        P2pStatus::DisabledByRegkey => "it is disabled in the driver's settings",
        P2pStatus::NotSupported => "it is not supported",
        P2pStatus::Unknown => "the driver does not know",
    }
}
