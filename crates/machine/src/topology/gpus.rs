//! One list of GPUs from the two that know them. They meet at the PCI address: indices differ between programs, and not every program
//! sees every GPU.

use dualpool_types::CpuList;
use dualpool_types::topology::{Disagreement, Gpu, Mig, NearNic, NvLinkPeer};

use super::nvml::{Facts, NvmlGpu};
use super::pci::{PciDevice, path};
use super::tree::XmlError;
use super::{Seen, nvlink};

/// Where a GPU stands in the lists it comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub pci: Option<usize>,
    pub nvml: Option<usize>,
}

pub(super) struct Found {
    pub gpus: Vec<Gpu>,
    /// In the order of `gpus`.
    pub origins: Vec<Origin>,
    pub disagreements: Vec<Disagreement>,
}

/// GPUs that NVML knows come first and keep its index.
pub(super) fn merge(seen: &Seen, nvml: Option<&Facts>) -> Result<Found, XmlError> {
    let of_nvml = nvml.map(|facts| &facts.gpus[..]).unwrap_or_default();
    let at = |gpu: &NvmlGpu| seen.gpus.iter().position(|device| device.bus_id == Some(gpu.bus_id));
    let mut origins: Vec<Origin> = of_nvml.iter().enumerate().map(|(i, gpu)| Origin { pci: at(gpu), nvml: Some(i) }).collect();
    let mut others: Vec<usize> = (0..seen.gpus.len()).filter(|i| origins.iter().all(|origin| origin.pci != Some(*i))).collect();
    others.sort_by_key(|i| (seen.gpus[*i].nvml_index().unwrap_or(u32::MAX), seen.gpus[*i].bus_id));
    origins.extend(others.into_iter().map(|i| Origin { pci: Some(i), nvml: None }));

    let mut links_of_tree = nvlink::of_tree(seen.tree, &seen.gpus)?;
    let mut found = Found { gpus: Vec::new(), origins, disagreements: Vec::new() };
    // NVML's indices have gaps where it cannot reach a GPU.
    let mut free = of_nvml.iter().map(|gpu| gpu.index + 1).max().unwrap_or(0);
    for origin in &found.origins {
        let device = origin.pci.map(|i| &seen.gpus[i]);
        let known = origin.nvml.map(|i| &of_nvml[i]);
        let index = known.map_or(free, |gpu| gpu.index);
        free += u32::from(known.is_none());
        let nvlinks = match known {
            Some(gpu) => gpu.nvlinks.clone(),
            None => links_of_tree.as_mut().zip(origin.pci).map(|(links, i)| std::mem::take(&mut links[i])),
        };
        let gpu = gpu(index, device, known, nvlinks, seen);
        if let (Some(device), Some(known)) = (device, known) {
            found.disagreements.extend(compare(index, device, known, seen.tree.cpus()));
        }
        found.gpus.push(gpu);
    }
    Ok(found)
}

fn gpu(index: u32, device: Option<&PciDevice>, known: Option<&NvmlGpu>, nvlinks: Option<Vec<NvLinkPeer>>, seen: &Seen) -> Gpu {
    let one = |nodes: &CpuList| (nodes.len() == 1).then(|| nodes.numbers()[0]);
    let bus_id = known.map(|gpu| gpu.bus_id).or(device.and_then(|device| device.bus_id));
    Gpu {
        index,
        vendor: device.map_or("nvidia", |device| device.vendor).to_owned(),
        name: known.and_then(|gpu| gpu.name.clone()).or_else(|| device?.model()),
        uuid: known.and_then(|gpu| gpu.uuid.clone()).or_else(|| device?.uuid()),
        pci_bus_id: bus_id.map(|id| id.to_string()),
        pci_id: known.map(|gpu| gpu.pci_id.clone()).or_else(|| device?.id.clone()),
        memory_bytes: known.and_then(|gpu| gpu.memory).or_else(|| device?.memory()),
        compute_capability: known.and_then(|gpu| gpu.compute_capability.clone()),
        mig: known.map_or(Mig::Unknown, |gpu| gpu.mig),
        // The kernel's word, which hwloc repeats, is what pinning goes by; NVML's serves where hwloc does not see the GPU.
        numa_node: match device {
            Some(device) => device.numa_node,
            None => known.and_then(|gpu| one(gpu.numa_nodes.as_ref()?)),
        },
        cpus: match device {
            Some(device) => device.cpus.clone(),
            None => known.and_then(|gpu| Some(present(gpu.cpus.as_ref()?, seen.tree.cpus()))).unwrap_or_default(),
        },
        nvlinks,
        nics: device.map(|device| nics(device, seen)).unwrap_or_default(),
    }
}

/// NVML counts CPUs that are switched off or not for this process, too.
fn present(cpus: &CpuList, of_machine: &CpuList) -> CpuList {
    cpus.numbers().iter().copied().filter(|cpu| of_machine.numbers().binary_search(cpu).is_ok()).collect()
}

fn nics(gpu: &PciDevice, seen: &Seen) -> Vec<NearNic> {
    let near = |(nic, device): (u32, &PciDevice)| NearNic { nic, path: path(gpu.object, device.object, &seen.nodes) };
    let mut nics: Vec<NearNic> = (0..).zip(&seen.nics).map(near).collect();
    nics.sort_by_key(|near| (near.path.is_none(), near.path, near.nic));
    nics
}

fn compare(index: u32, device: &PciDevice, known: &NvmlGpu, of_machine: &CpuList) -> Vec<Disagreement> {
    let differs = |fact: &str, hwloc: String, nvml: String| Disagreement {
        of: format!("GPU{index}"),
        fact: fact.to_owned(),
        hwloc,
        nvml,
        taken: "hwloc".to_owned(),
    };
    let mut found = Vec::new();
    if let (Some(node), Some(nodes)) = (device.numa_node, &known.numa_nodes)
        && nodes.numbers() != [node]
    {
        found.push(differs("numa_node", node.to_string(), nodes.to_string()));
    }
    if let Some(cpus) = known.cpus.as_ref().map(|cpus| present(cpus, of_machine))
        && cpus != device.cpus
    {
        found.push(differs("cpus", device.cpus.to_string(), cpus.to_string()));
    }
    found
}
