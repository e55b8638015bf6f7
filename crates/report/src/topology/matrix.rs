//! The topology on a terminal: the matrix of `nvidia-smi topo -m`, in its words, below what the machine is made of.

use comfy_table::{Table, presets};

use dualpool_types::topology::{Gpu, Link, Mig, Nic, NumaNode, NvLinkEnd, Package, PciPath, SourceKind, Topology};

/// What stands where something is not known.
const UNKNOWN: &str = "?";

/// The whole of it.
pub fn text(topology: &Topology) -> String {
    let mut out = summary(topology) + "\n\n";
    out += &parts(topology);
    if !topology.gpus.is_empty() {
        out += &format!("\n{}\n", gpus(topology));
    }
    if !topology.gpus.is_empty() || !topology.nics.is_empty() {
        out += &format!("\n{}\n\n{}", matrix(topology), legend(topology));
    }
    if let Some(distances) = numa_distances(topology) {
        out += &format!("\nDistances between NUMA nodes (10 = local)\n{distances}\n");
    }
    if !topology.disagreements.is_empty() {
        out += "\nhwloc and NVML disagree:\n";
        out.extend(topology.disagreements.iter().map(|said| format!("  {said}\n")));
    }
    if !topology.notes.is_empty() {
        out += "\nNotes:\n";
        out.extend(topology.notes.iter().map(|note| format!("  {note}\n")));
    }
    out
}

/// One line.
pub fn summary(topology: &Topology) -> String {
    let source = &topology.source;
    let of = match (source.kind, &source.file) {
        (SourceKind::Xml, Some(file)) => file.rsplit('/').next().unwrap_or(file),
        (SourceKind::Xml, None) => "a file",
        (SourceKind::Machine, _) => "this machine",
    };
    let hwloc = source.hwloc.as_ref().map_or(String::new(), |version| format!(", hwloc {version}"));
    let driver = source.nvidia_driver.as_ref().map_or(String::new(), |version| format!(", NVIDIA driver {version}"));
    format!(
        "{of}: {}, {}, {}, {}{hwloc}{driver}",
        many(topology.packages.len(), "package"),
        many(topology.numa_nodes.len(), "NUMA node"),
        many(topology.gpus.len(), "GPU"),
        many(topology.nics.len(), "NIC"),
    )
}

pub(super) fn many(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn parts(topology: &Topology) -> String {
    let mut out = String::new();
    for (place, package) in topology.packages.iter().enumerate() {
        out += &package_line(place, package);
    }
    for node in &topology.numa_nodes {
        out += &format!("{}\n", node_words(node));
    }
    out
}

fn package_line(place: usize, package: &Package) -> String {
    let index = package.os_index.map_or(place, |index| index as usize);
    let model = package.model.as_deref().unwrap_or("of unknown model");
    format!("Package {index}: {model}, {}, CPUs {}\n", many(package.cores as usize, "core"), package.cpus)
}

pub(super) fn node_words(node: &NumaNode) -> String {
    let kind = node.kind.as_ref().map_or(String::new(), |kind| format!(" ({kind})"));
    let cpus = if node.cpus.is_empty() {
        "no CPUs".to_owned()
    } else {
        format!("{}, CPUs {}", many(node.cores as usize, "core"), node.cpus)
    };
    let memory = node.memory_bytes.map_or("memory not known".to_owned(), |bytes| bytes.to_string());
    format!("NUMA node {}{kind}: {cpus}, {memory}", node.os_index)
}

fn gpus(topology: &Topology) -> String {
    let mut table = plain_table(&["GPU", "bus id", "name", "memory", "CC", "MIG", "NUMA", "NVLink", "UUID"]);
    for gpu in &topology.gpus {
        table.add_row([
            format!("GPU{}", gpu.index),
            or_unknown(&gpu.pci_bus_id),
            gpu.name.clone().or(gpu.pci_id.clone()).unwrap_or(UNKNOWN.to_owned()),
            or_unknown(&gpu.memory_bytes),
            or_unknown(&gpu.compute_capability),
            mig(gpu.mig).to_owned(),
            or_unknown(&gpu.numa_node),
            nvlinks(gpu),
            or_unknown(&gpu.uuid),
        ]);
    }
    shown(&table)
}

fn mig(mig: Mig) -> &'static str {
    match mig {
        Mig::Enabled => "on",
        Mig::Disabled => "off",
        Mig::NotSupported => "none",
        Mig::Unknown => UNKNOWN,
    }
}

/// All NVLinks of a GPU together: `6 x 25 GB/s to 6 switches`.
pub(super) fn nvlinks(gpu: &Gpu) -> String {
    let peers = match gpu.nvlinks.as_deref() {
        None => return UNKNOWN.to_owned(),
        Some([]) => return "none".to_owned(),
        Some(peers) => peers,
    };
    let links: Option<u32> = peers.iter().map(|peer| peer.links).sum();
    let rate: Option<u64> = peers.iter().map(|peer| peer.bytes_per_s).sum();
    let rate = match (links, rate) {
        (Some(links), Some(rate)) if links > 0 => format!("{links} x {} GB/s", gigabytes(rate / u64::from(links))),
        (Some(links), _) => many(links as usize, "link"),
        (None, Some(rate)) => format!("{} GB/s", gigabytes(rate)),
        (None, None) => UNKNOWN.to_owned(),
    };
    let ends = [(NvLinkEnd::Gpu, "GPU"), (NvLinkEnd::NvSwitch, "switch"), (NvLinkEnd::Cpu, "CPU")].into_iter().filter_map(
        |(end, word)| {
            let count = peers.iter().filter(|peer| peer.to == end).count();
            (count > 0).then(|| if count > 1 && word == "switch" { format!("{count} switches") } else { many(count, word) })
        },
    );
    format!("{rate} to {}", ends.collect::<Vec<_>>().join(", "))
}

pub(super) fn gigabytes(bytes_per_s: u64) -> f64 {
    (bytes_per_s as f64 / 1e8).round() / 10.0
}

/// What stands in a pair's cell.
pub(super) fn cell(link: &Link) -> String {
    match (&link.nvlink, link.path) {
        (Some(nvlink), _) => format!("NV{}", nvlink.links.map_or(UNKNOWN.to_owned(), |links| links.to_string())),
        (None, path) => path_cell(path),
    }
}

fn path_cell(path: Option<PciPath>) -> String {
    or_unknown(&path)
}

fn matrix(topology: &Topology) -> String {
    let devices = topology.gpus.iter().map(|gpu| format!("GPU{}", gpu.index));
    let devices: Vec<String> = devices.chain(topology.nics.iter().map(|nic| format!("NIC{}", nic.index))).collect();
    let mut header = vec![""];
    header.extend(devices.iter().map(String::as_str));
    header.extend(["CPU affinity", "NUMA affinity"]);
    let mut table = plain_table(&header);
    for gpu in &topology.gpus {
        let mut row = vec![format!("GPU{}", gpu.index)];
        row.extend(topology.gpus.iter().map(|other| gpu_cell(topology, gpu, other)));
        row.extend(topology.nics.iter().map(|nic| path_cell(nic_path(gpu, nic))));
        row.extend([or_unknown(&(!gpu.cpus.is_empty()).then_some(&gpu.cpus)), or_unknown(&gpu.numa_node)]);
        table.add_row(row);
    }
    for nic in &topology.nics {
        let mut row = vec![format!("NIC{}", nic.index)];
        row.extend(topology.gpus.iter().map(|gpu| path_cell(nic_path(gpu, nic))));
        row.extend(
            topology.nics.iter().zip(&nic.nic_paths).map(
                |(other, path)| {
                    if other.index == nic.index { "X".to_owned() } else { path_cell(*path) }
                },
            ),
        );
        row.extend([String::new(), or_unknown(&nic.numa_node)]);
        table.add_row(row);
    }
    shown(&table)
}

pub(super) fn gpu_cell(topology: &Topology, from: &Gpu, to: &Gpu) -> String {
    if from.index == to.index {
        return "X".to_owned();
    }
    topology.link(from.index, to.index).map_or(UNKNOWN.to_owned(), cell)
}

pub(super) fn nic_path(gpu: &Gpu, nic: &Nic) -> Option<PciPath> {
    gpu.nics.iter().find(|near| near.nic == nic.index)?.path
}

fn legend(topology: &Topology) -> String {
    let mut out = "Legend:\n  X     the device itself\n".to_owned();
    for path in PciPath::ALL {
        out += &format!("  {:5} {}\n", path.to_string(), path.meaning());
    }
    out += "  NV#   that many NVLinks, direct or through NVSwitches\n  ?     not known\n";
    for nic in &topology.nics {
        out += &format!("  {:5} {} ({})\n", format!("NIC{}", nic.index), nic.names.join(", "), nic.pci_bus_id);
    }
    out
}

fn numa_distances(topology: &Topology) -> Option<String> {
    let distances = topology.numa_distances.as_ref().filter(|rows| rows.len() > 1)?;
    let nodes: Vec<String> = topology.numa_nodes.iter().map(|node| node.os_index.to_string()).collect();
    let mut header = vec!["node"];
    header.extend(nodes.iter().map(String::as_str));
    let mut table = plain_table(&header);
    for (node, row) in nodes.iter().zip(distances) {
        table.add_row([node.clone()].into_iter().chain(row.iter().map(u64::to_string)));
    }
    Some(shown(&table))
}

fn or_unknown(value: &Option<impl ToString>) -> String {
    value.as_ref().map_or(UNKNOWN.to_owned(), ToString::to_string)
}

/// Columns and nothing between them; never wrapped, for a matrix that is broken into lines is none.
fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

fn shown(table: &Table) -> String {
    let lines = table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}
