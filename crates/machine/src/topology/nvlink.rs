//! Where each GPU's NVLinks lead to, and from that what lies between each pair.

use dualpool_types::topology::{Gpu, NvLink, NvLinkEnd, NvLinkPeer};

use super::cpu::Matrix;
use super::pci::{PciDevice, is_nvswitch};
use super::tree::{Object, Tree, XmlError, above, is};

/// hwloc and NVML count in MB/s.
pub(super) const MB: u64 = 1_000_000;

/// What hwloc's matrix of NVLink bandwidths says of each GPU; none where there is no matrix. It holds GPUs, switches and, on POWER machines, processors.
pub(super) fn of_tree(tree: &Tree, gpus: &[PciDevice]) -> Result<Option<Vec<Vec<NvLinkPeer>>>, XmlError> {
    let mut peers = vec![Vec::new(); gpus.len()];
    let Some(matrix) = tree.matrices().find(|matrix| matrix.attribute("name") == Some("NVLinkBandwidth")) else { return Ok(None) };
    let kind = matrix.attribute("type");
    let matrix = Matrix::read(tree, matrix)?;
    let objects: Vec<Option<Object>> = matrix.objects.iter().map(|name| object_named(tree, kind, name)).collect();
    for (row, gpu) in objects.iter().enumerate().filter_map(|(row, object)| Some((row, gpu_of((*object)?, gpus)?))) {
        let nominal = gpus[gpu].model().as_deref().and_then(rate_of_model);
        for (column, object) in objects.iter().enumerate().filter(|(column, _)| *column != row && matrix.at(row, *column) > 0) {
            let Some(object) = *object else { continue };
            let mb_per_s = matrix.at(row, column);
            let (links, bytes_per_s) = match nominal {
                Some(rate) => (mb_per_s / shown_by_hwloc(rate), mb_per_s.saturating_mul(rate) / shown_by_hwloc(rate)),
                None => (0, mb_per_s.saturating_mul(MB)),
            };
            peers[gpu].push(NvLinkPeer {
                to: end(object, gpus),
                pci_bus_id: pci_of(object).and_then(|pci| pci.attribute("pci_busid")).map(str::to_owned),
                links: (links > 0).then_some(links as u32),
                version: None,
                bytes_per_s: Some(bytes_per_s),
            });
        }
    }
    Ok(Some(peers))
}

/// `OSDev:802` where the matrix is of several kinds of objects, else `802`.
fn object_named<'t>(tree: &'t Tree, kind: Option<&str>, name: &str) -> Option<Object<'t>> {
    let (kind, index) = name.split_once(':').or(kind.map(|kind| (kind, name)))?;
    tree.objects().find(|object| is(*object, kind) && object.attribute("gp_index") == Some(index))
}

/// The PCI device that an object is, or belongs to.
fn pci_of(object: Object) -> Option<Object> {
    if is(object, "PCIDev") { Some(object) } else { above(object).find(|above| is(*above, "PCIDev")) }
}

fn gpu_of(object: Object, gpus: &[PciDevice]) -> Option<usize> {
    let device = pci_of(object).unwrap_or(object);
    gpus.iter().position(|gpu| gpu.object == device)
}

fn end(object: Object, gpus: &[PciDevice]) -> NvLinkEnd {
    match () {
        () if gpu_of(object, gpus).is_some() => NvLinkEnd::Gpu,
        () if is_nvswitch(object) => NvLinkEnd::NvSwitch,
        () => NvLinkEnd::Cpu,
    }
}

const GB: u64 = 1000 * MB;

/// The links of GA102 are slower than those of other chips of their generation: 112.5 GB/s for four, both ways.
const GA102: u64 = 112_500 * MB / 8;

/// Of one link, one way, by the GPU's name: NVIDIA's published rates of each generation (NVLink 1: 20 GB/s, 2 to 4: 25, 5: 50).
pub(super) fn rate_of_model(model: &str) -> Option<u64> {
    const RATES: [(&str, u64); 18] = [
        ("P100", 20 * GB),
        ("V100", 25 * GB),
        ("A100", 25 * GB),
        ("A800", 25 * GB),
        ("A30", 25 * GB),
        ("A40", GA102),
        ("A6000", GA102),
        ("3090", GA102),
        ("H100", 25 * GB),
        ("H800", 25 * GB),
        ("H200", 25 * GB),
        ("H20", 25 * GB),
        ("GH200", 25 * GB),
        ("B100", 50 * GB),
        ("B200", 50 * GB),
        ("B300", 50 * GB),
        ("GB200", 50 * GB),
        ("GB300", 50 * GB),
    ];
    let mut words = model.split(|c: char| !c.is_alphanumeric());
    words.find_map(|word| RATES.iter().find(|(name, _)| *name == word)).map(|(_, rate)| *rate)
}

/// The same in hwloc's matrix, in MB/s: it goes by the version of a link alone, so GA102's are as fast there as all of their generation.
fn shown_by_hwloc(rate: u64) -> u64 {
    if rate == GA102 { 25_000 } else { rate / MB }
}

/// Of one link, one way, by the number that NVML gives its version, which is not the generation's.
pub(super) fn of_nvml_version(version: u32) -> Option<(&'static str, u64)> {
    let (generation, gb) = match version {
        1 => ("1.0", 20),
        2 => ("2.0", 25),
        3 => ("2.2", 25),
        4 => ("3.0", 25),
        5 => ("3.1", 25),
        6 => ("4.0", 25),
        7 => ("5.0", 50),
        _ => return None,
    };
    Some((generation, gb * GB))
}

/// What lies between two GPUs. All switches of a machine are one fabric: NVIDIA builds no other, and the links from switch to switch
/// are in no file and no answer of NVML.
pub(super) fn between(a: &Gpu, b: &Gpu) -> Option<NvLink> {
    let is_b = |peer: &&NvLinkPeer| peer.to == NvLinkEnd::Gpu && peer.pci_bus_id.is_some() && peer.pci_bus_id == b.pci_bus_id;
    if let Some(NvLinkPeer { links, version, bytes_per_s, .. }) = a.nvlinks.iter().flatten().find(is_b).cloned() {
        return Some(NvLink { through: NvLinkEnd::Gpu, links, version, bytes_per_s });
    }
    let (into, out) = (fabric(a.nvlinks.as_deref()?)?, fabric(b.nvlinks.as_deref()?)?);
    Some(NvLink {
        through: NvLinkEnd::NvSwitch,
        links: into.links.zip(out.links).map(|(a, b)| a.min(b)),
        version: into.version.filter(|version| out.version.as_ref() == Some(version)),
        bytes_per_s: into.bytes_per_s.zip(out.bytes_per_s).map(|(a, b)| a.min(b)),
    })
}

/// A GPU's links to switches, as one.
fn fabric(peers: &[NvLinkPeer]) -> Option<NvLinkPeer> {
    let mut switches = peers.iter().filter(|peer| peer.to == NvLinkEnd::NvSwitch).cloned();
    let first = switches.next()?;
    Some(switches.fold(first, |sum, peer| NvLinkPeer {
        links: sum.links.zip(peer.links).map(|(a, b)| a + b),
        bytes_per_s: sum.bytes_per_s.zip(peer.bytes_per_s).map(|(a, b)| a.saturating_add(b)),
        version: sum.version.filter(|version| peer.version.as_ref() == Some(version)),
        ..sum
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_go_by_whole_words_of_the_name() {
        let rates = [
            ("NVIDIA A100-SXM4-80GB", Some(25 * GB)),
            ("NVIDIA RTX A6000", Some(14_062_500_000)),
            ("NVIDIA GeForce RTX 3090", Some(14_062_500_000)),
            ("NVIDIA GB300", Some(50 * GB)),
            ("NVIDIA A10", None),
        ];
        for (model, rate) in rates {
            assert_eq!(rate_of_model(model), rate, "{model}");
        }
    }
}
