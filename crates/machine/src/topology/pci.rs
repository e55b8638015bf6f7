//! GPUs and NICs in the tree of bridges, and how near they are to each other on it.

use dualpool_types::topology::{NumaNode, PciPath};
use dualpool_types::{Bytes, CpuList};

use super::bus_id::PciBusId;
use super::cpu::{home_node, nodes_of};
use super::tree::{Object, Tree, above, info, is, place_of};

/// A GPU or NIC as hwloc shows it.
pub(super) struct PciDevice<'t> {
    pub object: Object<'t>,
    /// None for a GPU that is not on PCI.
    pub bus_id: Option<PciBusId>,
    /// `10de:2335`.
    pub id: Option<String>,
    pub vendor: &'static str,
    /// What programs know it by: `nvml0`, `eth0`.
    pub names: Vec<String>,
    pub numa_node: Option<u32>,
    pub cpus: CpuList,
}

const NVIDIA: u16 = 0x10de;
const AMD: u16 = 0x1002;
const INTEL: u16 = 0x8086;

/// Class, vendor and device of a PCI device: `0302 [10de:2335] [10de:18be] a1`.
pub(super) fn identity(object: Object) -> Option<(u16, u16, u16)> {
    let text = object.attribute("pci_type")?;
    let hex = |text: &str| u16::from_str_radix(text, 16).ok();
    let (class, rest) = text.split_once(" [")?;
    let (vendor, device) = rest.split_once(']')?.0.split_once(':')?;
    Some((hex(class.trim())?, hex(vendor)?, hex(device)?))
}

/// ATI's display adapters in management chips of servers: ES1000 (two kinds) and Rage XL.
const ATI_OF_SERVERS: [u16; 3] = [0x515e, 0x5969, 0x4752];

/// The maker of this GPU; none when it is no GPU. Servers have a display adapter in their management chip, mostly of other makers, and
/// desktop processors have Intel's built in, which are of class 0300 where its GPUs for computing are 0380.
fn gpu_vendor(object: Object) -> Option<&'static str> {
    let (class, vendor, device) = identity(object)?;
    let (display, accelerator) = (class >> 8 == 0x03, class >> 8 == 0x12);
    match vendor {
        NVIDIA if display || accelerator => Some("nvidia"),
        AMD if (display || accelerator) && !ATI_OF_SERVERS.contains(&device) => Some("amd"),
        INTEL if class == 0x0380 || accelerator => Some("intel"),
        _ => None,
    }
}

/// NVIDIA's switches show up as bridges to something other than PCI.
pub(super) fn is_nvswitch(object: Object) -> bool {
    object.attribute("subtype") == Some("NVSwitch")
        || identity(object).is_some_and(|(class, vendor, _)| class == 0x0680 && vendor == NVIDIA)
}

pub(super) fn gpus<'t>(tree: &'t Tree, nodes: &[NumaNode]) -> Vec<PciDevice<'t>> {
    let on_pci = tree.of_kind("PCIDev").filter_map(|object| Some((object, gpu_vendor(object)?)));
    // Some boards and virtual machines have GPUs that are not on PCI.
    let elsewhere = tree.of_kind("OSDev").filter(|object| above(*object).all(|above| !is(above, "PCIDev")));
    let elsewhere = elsewhere.filter_map(|object| Some((object, vendor_by_name(object.attribute("name")?)?)));
    on_pci.chain(elsewhere).map(|(object, vendor)| device(tree, nodes, object, vendor)).collect()
}

fn vendor_by_name(name: &str) -> Option<&'static str> {
    let numbered = |prefix: &str| name.strip_prefix(prefix).is_some_and(|number| number.parse::<u32>().is_ok());
    match () {
        () if numbered("nvml") || numbered("cuda") => Some("nvidia"),
        () if numbered("rsmi") => Some("amd"),
        () if numbered("ze") => Some("intel"),
        () => None,
    }
}

/// PCI devices that the operating system has made a network interface of. Those it has not are no way out of the machine.
pub(super) fn nics<'t>(tree: &'t Tree, nodes: &[NumaNode]) -> Vec<PciDevice<'t>> {
    let mut nics: Vec<_> = tree.of_kind("PCIDev").map(|object| (object, interfaces(object))).collect();
    nics.retain(|(_, names)| !names.is_empty());
    let nic = |(object, names)| PciDevice { names, ..device(tree, nodes, object, "") };
    let mut nics: Vec<_> = nics.into_iter().map(nic).collect();
    nics.retain(|nic| nic.bus_id.is_some());
    nics.sort_by_key(|nic| nic.bus_id);
    nics
}

/// The names of the network interfaces and InfiniBand adapters that belong to a PCI device.
fn interfaces(object: Object) -> Vec<String> {
    let os_devices = object.descendants().filter(|child| is(*child, "OSDev")).filter(|os| is_network(*os));
    os_devices.filter_map(|os| os.attribute("name")).map(str::to_owned).collect()
}

/// hwloc 2 counts its kinds of devices, hwloc 3 gives each a bit; its files stay so when they are brought back to form 2.
fn is_network(os: Object) -> bool {
    const COUNTED: [u32; 2] = [2, 3];
    const COUNTED_LAST: u32 = 6;
    const BITS: u32 = 1 << 4 | 1 << 5;
    let Some(kind) = os.attribute("osdev_type").and_then(|kind| kind.parse::<u32>().ok()) else { return false };
    let in_bits = form_of(os) >= 3 || kind > COUNTED_LAST;
    if in_bits { kind & BITS != 0 } else { COUNTED.contains(&kind) }
}

/// The file's form of hwloc's XML; the first ones did not say.
fn form_of(object: Object) -> u32 {
    let version = object.document().root_element().attribute("version").unwrap_or_default();
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

fn device<'t>(tree: &Tree, nodes: &[NumaNode], object: Object<'t>, vendor: &'static str) -> PciDevice<'t> {
    let place = place_of(object);
    let os_devices = object.descendants().filter(|child| is(*child, "OSDev"));
    PciDevice {
        object,
        bus_id: object.attribute("pci_busid").and_then(|text| text.parse().ok()),
        id: identity(object).map(|(_, vendor, device)| format!("{vendor:04x}:{device:04x}")),
        vendor,
        names: os_devices.filter_map(|os| os.attribute("name")).map(str::to_owned).collect(),
        numa_node: place.and_then(|place| home_node(place, nodes)),
        cpus: place.map(|place| tree.cpus_of(place)).unwrap_or_default(),
    }
}

impl PciDevice<'_> {
    /// NVML's index, where hwloc was built with it.
    pub(super) fn nvml_index(&self) -> Option<u32> {
        self.names.iter().find_map(|name| name.strip_prefix("nvml")?.parse().ok())
    }

    /// One of hwloc's notes on the device or on what the operating system makes of it.
    fn noted(&self, names: &[&str]) -> Option<String> {
        let objects = || self.object.descendants().filter(|child| child.has_tag_name("object"));
        let found = names.iter().find_map(|name| objects().find_map(|object| info(object, name)));
        found.map(str::to_owned)
    }

    pub(super) fn model(&self) -> Option<String> {
        self.noted(&["GPUModel", "PCIDevice"])
    }

    pub(super) fn uuid(&self) -> Option<String> {
        self.noted(&["NVIDIAUUID", "AMDUUID", "LevelZeroUUID"])
    }

    pub(super) fn memory(&self) -> Option<Bytes> {
        let kib = self.noted(&["CUDAGlobalMemorySize", "RSMIVRAMSize", "LevelZeroHBMSize"])?;
        kib.parse::<u64>().ok()?.checked_mul(1024).map(Bytes)
    }
}

fn is_bridge(object: Object) -> bool {
    is(object, "Bridge")
}

/// From the processor's side to PCI.
fn is_host_bridge(object: Object) -> bool {
    object.attribute("bridge_type").is_some_and(|kind| kind.starts_with('0'))
}

/// How two devices reach each other; none where the tree does not say.
pub(super) fn path(a: Object, b: Object, nodes: &[NumaNode]) -> Option<PciPath> {
    let above_b: Vec<Object> = b.ancestors().filter(|node| node.has_tag_name("object")).collect();
    let common = a.ancestors().find(|object| above_b.contains(object))?;
    if is(common, "PCIDev") {
        return Some(PciPath::Pix);
    }
    if is_bridge(common) && is_host_bridge(common) {
        return Some(PciPath::Phb);
    }
    if is_bridge(common) {
        // The common bridge is a switch's port upwards; its ports downwards are bridges, too, one on the way to each device.
        let between = |device: Object| above(device).take_while(|object| *object != common).count();
        return Some(if between(a) <= 1 && between(b) <= 1 { PciPath::Pix } else { PciPath::Pxb });
    }
    across(a, b, nodes)
}

/// Two devices with nothing of PCI above both.
fn across(a: Object, b: Object, nodes: &[NumaNode]) -> Option<PciPath> {
    let (of_a, of_b) = (nodes_of(place_of(a)?, nodes), nodes_of(place_of(b)?, nodes));
    if of_a.iter().all(|node| !of_b.contains(node)) {
        return Some(PciPath::Sys);
    }
    let has_bridge = |device: Object| above(device).any(is_bridge);
    // Where the bridges were left out of the file, the devices may share one. And what is next to several nodes is not known to be
    // next to any.
    let known = has_bridge(a) && has_bridge(b) && home_node(place_of(a)?, nodes).is_some() && of_a == of_b;
    known.then_some(PciPath::Node)
}
