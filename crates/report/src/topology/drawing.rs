//! The topology as a picture that stands by itself: each NUMA node with its GPUs and NICs, those below the same PCIe switch together,
//! and under them what lies between each two GPUs.

use dualpool_types::CpuList;
use dualpool_types::topology::{Gpu, Link, Nic, PciPath, Topology};

use super::matrix::{gigabytes, gpu_cell, many, nic_path, node_words, nvlinks};
use crate::plot::{Anchor, WIDTH, drawing, label, rect};
use crate::svg::Svg;

const MARGIN: f64 = 12.0;
const GPU: (f64, f64) = (250.0, 82.0);
const NIC: (f64, f64) = (250.0, 26.0);
const GAP: f64 = 8.0;
/// Clusters in one row of a node.
const COLUMNS: usize = 4;
const HEAD: f64 = 30.0;
/// Meanings in one line of the legend.
const LEGEND_COLUMNS: usize = 3;
const CELL_MAX: (f64, f64) = (62.0, 26.0);

/// GPUs and NICs that are below one PCIe switch.
#[derive(Default)]
struct Cluster<'a> {
    gpus: Vec<&'a Gpu>,
    nics: Vec<&'a Nic>,
}

impl Cluster<'_> {
    fn height(&self) -> f64 {
        2.0 * GAP + self.gpus.len() as f64 * (GPU.1 + GAP) + self.nics.len() as f64 * (NIC.1 + GAP) - GAP
    }
}

/// A NUMA node, or what belongs to none.
struct Panel<'a> {
    title: String,
    clusters: Vec<Cluster<'a>>,
}

impl Panel<'_> {
    fn height(&self) -> f64 {
        HEAD + self.clusters.chunks(COLUMNS).map(|row| row_height(row) + GAP).sum::<f64>() + GAP
    }
}

fn row_height(row: &[Cluster]) -> f64 {
    row.iter().map(Cluster::height).fold(0.0, f64::max)
}

/// The picture as a whole file.
pub fn svg(topology: &Topology) -> String {
    let panels = panels(topology);
    let grid_top = MARGIN + 34.0 + panels.iter().map(|panel| panel.height() + MARGIN).sum::<f64>();
    let height = grid_top + grid_height(topology) + MARGIN;
    let mut m = Svg::new();
    drawing(&mut m, height, "Topology", |m| {
        m.style(include_str!("drawing.css"));
        rect(m, (0.0, 0.0), (WIDTH, height), "page");
        label(m, MARGIN, MARGIN + 16.0, Anchor::Start, "title", shortened(&super::summary(topology), 120));
        let mut top = MARGIN + 34.0;
        for panel in &panels {
            draw_panel(m, top, panel);
            top += panel.height() + MARGIN;
        }
        draw_grid(m, grid_top, topology);
    });
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", m.finish())
}

fn panels(topology: &Topology) -> Vec<Panel<'_>> {
    let mut panels: Vec<Panel> = topology
        .numa_nodes
        .iter()
        .map(|node| Panel { title: node_words(node), clusters: clusters(topology, Some(node.os_index)) })
        .collect();
    let stray = clusters(topology, None);
    if !stray.is_empty() {
        panels.push(Panel { title: "Next to no single NUMA node".to_owned(), clusters: stray });
    }
    panels
}

fn clusters(topology: &Topology, node: Option<u32>) -> Vec<Cluster<'_>> {
    let mut clusters: Vec<Cluster> = Vec::new();
    for gpu in topology.gpus.iter().filter(|gpu| gpu.numa_node == node) {
        let near = |link: Option<&Link>| link.is_some_and(|link| link.path == Some(PciPath::Pix));
        let place =
            clusters.iter().position(|cluster| cluster.gpus.iter().any(|other| near(topology.link(gpu.index, other.index))));
        cluster_at(&mut clusters, place).gpus.push(gpu);
    }
    for nic in topology.nics.iter().filter(|nic| nic.numa_node == node) {
        let near = |cluster: &Cluster| {
            cluster.gpus.iter().any(|gpu| nic_path(gpu, nic) == Some(PciPath::Pix))
                || cluster.nics.iter().any(|other| nic.nic_paths.get(other.index as usize) == Some(&Some(PciPath::Pix)))
        };
        let place = clusters.iter().position(near);
        cluster_at(&mut clusters, place).nics.push(nic);
    }
    clusters
}

/// That cluster, or a new one.
fn cluster_at<'c, 'a>(clusters: &'c mut Vec<Cluster<'a>>, place: Option<usize>) -> &'c mut Cluster<'a> {
    let place = place.unwrap_or_else(|| {
        clusters.push(Cluster::default());
        clusters.len() - 1
    });
    &mut clusters[place]
}

fn draw_panel(m: &mut Svg, top: f64, panel: &Panel) {
    rect(m, (MARGIN, top), (WIDTH - 2.0 * MARGIN, panel.height()), "panel-box");
    label(m, 2.0 * MARGIN, top + 20.0, Anchor::Start, "panel", shortened(&panel.title, 150));
    let mut y = top + HEAD;
    for row in panel.clusters.chunks(COLUMNS) {
        for (column, cluster) in row.iter().enumerate() {
            let x = 2.0 * MARGIN + column as f64 * (GPU.0 + 2.0 * GAP + 2.0);
            draw_cluster(m, (x, y), cluster);
        }
        y += row_height(row) + GAP;
    }
}

fn draw_cluster(m: &mut Svg, (x, y): (f64, f64), cluster: &Cluster) {
    if cluster.gpus.len() + cluster.nics.len() > 1 {
        rect(m, (x, y), (GPU.0 + 2.0 * GAP - 4.0, cluster.height()), "switch");
    }
    let (x, mut y) = (x + GAP - 2.0, y + GAP);
    for gpu in &cluster.gpus {
        rect(m, (x, y), GPU, "gpu");
        let name = gpu.name.as_deref().or(gpu.pci_id.as_deref()).unwrap_or("unknown");
        let memory = gpu.memory_bytes.map_or(String::new(), |bytes| format!(", {bytes}"));
        label(m, x + 8.0, y + 18.0, Anchor::Start, "device", format!("GPU{}  {}", gpu.index, shortened(name, 28)));
        label(
            m,
            x + 8.0,
            y + 36.0,
            Anchor::Start,
            "detail",
            format!("{}{memory}", gpu.pci_bus_id.as_deref().unwrap_or("not on PCI")),
        );
        label(m, x + 8.0, y + 53.0, Anchor::Start, "detail", format!("NVLink: {}", nvlinks(gpu)));
        label(m, x + 8.0, y + 70.0, Anchor::Start, "detail", cpus(&gpu.cpus));
        y += GPU.1 + GAP;
    }
    for nic in &cluster.nics {
        rect(m, (x, y), NIC, "nic");
        label(m, x + 8.0, y + 17.0, Anchor::Start, "detail", shortened(&format!("NIC{}  {}", nic.index, nic.names.join(", ")), 38));
        y += NIC.1 + GAP;
    }
}

fn cpus(cpus: &CpuList) -> String {
    if cpus.is_empty() { "CPUs not known".to_owned() } else { shortened(&format!("CPUs {cpus}"), 38) }
}

/// At most this many characters.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn cell_size(topology: &Topology) -> (f64, f64) {
    let fits = (WIDTH - 2.0 * MARGIN) / (topology.gpus.len() + 1).max(1) as f64;
    (fits.min(CELL_MAX.0), CELL_MAX.1)
}

fn grid_height(topology: &Topology) -> f64 {
    if topology.gpus.len() < 2 { 0.0 } else { HEAD + (topology.gpus.len() + 1) as f64 * CELL_MAX.1 + 62.0 }
}

/// One cell for each two GPUs, the stronger the closer they are.
fn draw_grid(m: &mut Svg, top: f64, topology: &Topology) {
    if topology.gpus.len() < 2 {
        return;
    }
    label(m, MARGIN, top + 18.0, Anchor::Start, "panel", format!("Between {}", many(topology.gpus.len(), "GPU")));
    let (width, height) = cell_size(topology);
    let corner = |column: usize, row: usize| (MARGIN + column as f64 * width, top + HEAD + row as f64 * height);
    let middle = |(x, y): (f64, f64)| (x + width / 2.0, y + height / 2.0 + 4.0);
    for (i, from) in topology.gpus.iter().enumerate() {
        for at in [corner(i + 1, 0), corner(0, i + 1)] {
            let (x, y) = middle(at);
            label(m, x, y, Anchor::Middle, "detail", format!("GPU{}", from.index));
        }
        for (j, to) in topology.gpus.iter().enumerate() {
            let link = topology.link(from.index, to.index);
            let at = corner(j + 1, i + 1);
            m.el("g", &[], |m| {
                if let Some(link) = link {
                    m.leaf("title", &[], words(link));
                }
                rect(m, at, (width - 2.0, height - 2.0), link.map_or("self", class));
                let (x, y) = middle(at);
                label(m, x - 1.0, y - 1.0, Anchor::Middle, "cell", gpu_cell(topology, from, to));
            });
        }
    }
    let (x, y) = corner(0, topology.gpus.len() + 1);
    label(m, x, y + 18.0, Anchor::Start, "detail", "NV#: that many NVLinks, direct or through NVSwitches; ?: not known");
    for (line, y) in PciPath::ALL.chunks(LEGEND_COLUMNS).zip([y + 36.0, y + 54.0]) {
        let meanings: Vec<String> = line.iter().map(|path| format!("{path}: {}", path.meaning())).collect();
        label(m, x, y, Anchor::Start, "detail", meanings.join("; "));
    }
}

fn class(link: &Link) -> &'static str {
    match (&link.nvlink, link.path) {
        (Some(_), _) => "nv",
        (None, Some(PciPath::Pix)) => "pix",
        (None, Some(PciPath::Pxb)) => "pxb",
        (None, Some(PciPath::Phb)) => "phb",
        (None, Some(PciPath::Node)) => "node",
        (None, Some(PciPath::Sys)) => "sys",
        (None, None) => "self",
    }
}

/// What a pointer on the cell shows.
fn words(link: &Link) -> String {
    let mut words = vec![format!("GPU{} to GPU{}", link.from, link.to)];
    if let Some(rate) = link.nvlink.as_ref().and_then(|nvlink| nvlink.bytes_per_s) {
        words.push(format!("NVLink {} GB/s one way", gigabytes(rate)));
    }
    words.extend(link.path.map(|path| format!("PCIe: {}", path.meaning())));
    words.extend(link.measured.as_ref().map(|measured| format!("measured {} GB/s", gigabytes(measured.bytes_per_s as u64))));
    words.join(", ")
}
