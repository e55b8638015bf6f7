//! What a reader of the document should know: what is missing from it, and why.

use dualpool_types::topology::{Gpu, Link, NvLinkEnd};

use super::gpus::{Found, Origin};
use super::{NvmlState, Seen};

pub(super) fn notes(seen: &Seen, found: &Found, nvml: &NvmlState, distances: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let nvidia = found.gpus.iter().filter(|gpu| gpu.vendor == "nvidia").count();
    match nvml {
        NvmlState::OnlyAFile if found.gpus.is_empty() => notes.push("no GPU: the file shows none".to_owned()),
        NvmlState::Silent { why } if found.gpus.is_empty() => notes.push(format!("no GPU: none is on PCI, and {why}")),
        NvmlState::Answered(_) if found.gpus.is_empty() => notes.push("no GPU: none is on PCI, and NVML knows of none".to_owned()),
        NvmlState::OnlyAFile if nvidia > 0 => notes.push(unknown("the driver's answers are in no file", found)),
        NvmlState::Silent { why } if nvidia > 0 => notes.push(unknown(why, found)),
        _ => {}
    }
    if seen.tree.of_kind("PCIDev").next().is_none() {
        notes.push(
            "there is no PCI device: the machine shows none, or the file was written without them (`lstopo --no-io`)".to_owned(),
        );
    }
    for (gpu, origin) in found.gpus.iter().zip(&found.origins) {
        notes.extend(of_gpu(gpu, origin, nvml.facts().is_some()));
    }
    let others = found.gpus.len() - nvidia;
    if others > 0 {
        let are = if others == 1 { "GPU is" } else { "GPUs are" };
        notes.push(format!("{others} {are} not of NVIDIA: engines run on NVIDIA GPUs and on CPU cores"));
    }
    if seen.nodes.len() > 1 && !distances {
        notes.push("the distances between NUMA nodes are not known".to_owned());
    }
    notes
}

/// What only NVML tells.
fn unknown(why: &str, found: &Found) -> String {
    let nvlinks = if found.gpus.iter().all(|gpu| gpu.nvlinks.is_none()) { ", NVLinks" } else { "" };
    format!("{why}: compute capability, MIG{nvlinks}, peer access and atomics of the GPUs are not known")
}

fn of_gpu(gpu: &Gpu, origin: &Origin, nvml_asked: bool) -> Option<String> {
    let name = format!("GPU{} ({})", gpu.index, gpu.pci_bus_id.as_deref().unwrap_or("not on PCI"));
    match origin {
        Origin { pci: None, .. } => {
            Some(format!("{name} is known to NVML, and hwloc does not see it: where it lies on PCI is not known"))
        }
        Origin { nvml: None, .. } if nvml_asked && gpu.vendor == "nvidia" => Some(format!(
            "{name} is on PCI, and NVML does not know it: it is given to a virtual machine, switched off, or hidden from this process"
        )),
        _ if gpu.numa_node.is_none() => Some(format!("{name} is next to several NUMA nodes, or the machine does not say to which")),
        _ => None,
    }
}

/// On links through switches that two GPUs have none of in common.
pub(super) fn of_links(gpus: &[Gpu], links: &[Link]) -> Option<String> {
    let switches = |index: u32| {
        let peers = gpus.iter().filter(move |gpu| gpu.index == index).flat_map(|gpu| gpu.nvlinks.iter().flatten());
        peers.filter(|peer| peer.to == NvLinkEnd::NvSwitch).map(|peer| &peer.pci_bus_id)
    };
    let apart = |link: &Link| {
        link.nvlink.as_ref().is_some_and(|nvlink| nvlink.through == NvLinkEnd::NvSwitch)
            && switches(link.from).all(|switch| switches(link.to).all(|other| switch != other))
    };
    links.iter().any(apart).then(|| {
        "some GPUs have no NVSwitch in common: all switches of a machine are taken as one fabric, for links from switch to switch are not shown"
            .to_owned()
    })
}
