//! What lies between each two GPUs, and between each two NICs.

use dualpool_types::topology::{Disagreement, Gpu, Link, Nic, PciPath};

use super::gpus::{Found, Origin};
use super::nvml::{Facts, Pair};
use super::pci::{PciDevice, path};
use super::{Seen, nvlink};

/// Every ordered pair, and where hwloc and NVML see its path differently.
pub(super) fn between_gpus(seen: &Seen, found: &Found, nvml: Option<&Facts>) -> (Vec<Link>, Vec<Disagreement>) {
    let (mut links, mut disagreements) = (Vec::new(), Vec::new());
    let gpus = || found.gpus.iter().zip(&found.origins);
    for (from, a) in gpus() {
        for (to, b) in gpus().filter(|(to, _)| to.index != from.index) {
            let of_tree = path_in_tree(seen, a, b);
            let known = known(nvml, a, b).cloned().unwrap_or_default();
            if let (Some(hwloc), Some(of_nvml)) = (of_tree, known.path)
                && hwloc != of_nvml
                && from.index < to.index
            {
                disagreements.push(differs(from, to, hwloc, of_nvml));
            }
            links.push(Link {
                from: from.index,
                to: to.index,
                path: known.path.or(of_tree),
                nvlink: nvlink::between(from, to),
                p2p: known.p2p,
                measured: None,
            });
        }
    }
    (links, disagreements)
}

fn path_in_tree(seen: &Seen, a: &Origin, b: &Origin) -> Option<PciPath> {
    path(seen.gpus[a.pci?].object, seen.gpus[b.pci?].object, &seen.nodes)
}

fn known<'a>(nvml: Option<&'a Facts>, a: &Origin, b: &Origin) -> Option<&'a Pair> {
    nvml?.pairs.get(&(a.nvml?, b.nvml?))
}

/// The driver sees bridges that virtual machines hide from the kernel, so here its word counts.
fn differs(from: &Gpu, to: &Gpu, hwloc: PciPath, nvml: PciPath) -> Disagreement {
    Disagreement {
        of: format!("GPU{} - GPU{}", from.index, to.index),
        fact: "path".to_owned(),
        hwloc: hwloc.to_string(),
        nvml: nvml.to_string(),
        taken: "NVML".to_owned(),
    }
}

pub(super) fn nics(seen: &Seen) -> Vec<Nic> {
    let nic = |(index, device): (u32, &PciDevice)| {
        let to = |(other, device_b): (u32, &PciDevice)| {
            if other == index { None } else { path(device.object, device_b.object, &seen.nodes) }
        };
        Nic {
            index,
            names: device.names.clone(),
            pci_bus_id: device.bus_id.map(|id| id.to_string()).unwrap_or_default(),
            numa_node: device.numa_node,
            nic_paths: (0..).zip(&seen.nics).map(to).collect(),
        }
    };
    (0..).zip(&seen.nics).map(nic).collect()
}
