//! Packages, NUMA nodes and the distances between nodes.

use dualpool_types::Bytes;
use dualpool_types::topology::{NumaNode, Package};

use super::bitmap::Bitmap;
use super::tree::{Object, Tree, XmlError, above, info, is};

pub(super) fn packages(tree: &Tree, nodes: &[NumaNode]) -> Vec<Package> {
    let machine_model = tree.objects().next().and_then(|machine| info(machine, "CPUModel"));
    // Until hwloc 1.11 packages were called sockets.
    let packages = tree.objects().filter(|object| is(*object, "Package") || is(*object, "Socket"));
    let package = |object: Object| {
        let cpus = tree.cpus_of(object);
        Package {
            os_index: tree.os_index(object).ok(),
            model: info(object, "CPUModel").or(machine_model).map(|model| model.trim().to_owned()),
            cores: cores_within(tree, cpus.numbers()),
            numa_nodes: nodes_of(object, nodes),
            cpus,
        }
    };
    packages.map(package).collect()
}

/// In the order of the operating system's numbers.
pub(super) fn numa_nodes(tree: &Tree) -> Result<Vec<NumaNode>, XmlError> {
    let mut nodes = tree.of_kind("NUMANode").map(|object| node(tree, object)).collect::<Result<Vec<_>, _>>()?;
    if nodes.is_empty() {
        // Until hwloc 2 a machine with one node had none.
        let machine = tree.objects().next();
        let memory_bytes = machine.and_then(local_memory);
        let cpus = tree.cpus().clone();
        nodes.push(NumaNode { os_index: 0, kind: None, cores: cores_within(tree, cpus.numbers()), cpus, memory_bytes });
    }
    nodes.sort_by_key(|node| node.os_index);
    Ok(nodes)
}

fn node(tree: &Tree, object: Object) -> Result<NumaNode, XmlError> {
    let cpus = tree.cpus_of(object);
    Ok(NumaNode {
        os_index: tree.os_index(object)?,
        kind: object.attribute("subtype").map(str::to_owned),
        cores: cores_within(tree, cpus.numbers()),
        cpus,
        memory_bytes: local_memory(object),
    })
}

fn local_memory(object: Object) -> Option<Bytes> {
    object.attribute("local_memory")?.parse().ok().map(Bytes)
}

/// Cores with a thread among these; threads, where the machine hides its cores.
fn cores_within(tree: &Tree, cpus: &[u32]) -> u32 {
    let within = |object: &Object| tree.cpus_of(*object).numbers().first().is_some_and(|cpu| cpus.binary_search(cpu).is_ok());
    let cores = tree.of_kind("Core").filter(within).count();
    if cores > 0 { cores as u32 } else { cpus.len() as u32 }
}

/// The numbers of the nodes that an object spans.
pub(super) fn nodes_of(object: Object, nodes: &[NumaNode]) -> Vec<u32> {
    let set = object.attribute("nodeset").and_then(Bitmap::parse);
    // Without a set there is nothing to tell nodes apart by: there is one, or the object is next to all.
    nodes.iter().map(|node| node.os_index).filter(|&node| set.as_ref().is_none_or(|set| set.holds(node))).collect()
}

/// Of the nodes that an object spans, the one that its programs and their memory belong to. Memory of other kinds (HBM, CXL, a GPU's)
/// that is next to the same CPUs does not make it two.
pub(super) fn home_node(object: Object, nodes: &[NumaNode]) -> Option<u32> {
    let spans = nodes_of(object, nodes);
    let with_cpus = || nodes.iter().filter(|node| spans.contains(&node.os_index) && !node.cpus.is_empty());
    let first = with_cpus().next()?;
    with_cpus().all(|node| node.cpus == first.cpus).then_some(first.os_index)
}

/// Row and column in the order of `nodes`.
pub(super) fn numa_distances(tree: &Tree, nodes: &[NumaNode]) -> Result<Option<Vec<Vec<u64>>>, XmlError> {
    for matrix in tree.matrices() {
        let named = matrix.attribute("name").is_none_or(|name| name == "NUMALatency");
        let found = match matrix.tag_name().name() {
            "distances2" if named && matrix.attribute("type") == Some("NUMANode") => Some(Matrix::read(tree, matrix)?),
            "distances" => old_matrix(matrix, nodes),
            _ => None,
        };
        // A matrix without all the nodes is not the one.
        if let Some(rows) = found.and_then(|matrix| matrix.in_order_of(nodes)) {
            return Ok(Some(rows));
        }
    }
    Ok(None)
}

/// A square of values between objects, which are named as the file names them.
pub(super) struct Matrix {
    pub objects: Vec<String>,
    pub values: Vec<u64>,
}

impl Matrix {
    pub(super) fn read(tree: &Tree, matrix: Object) -> Result<Matrix, XmlError> {
        let words = |tag: &str| {
            let parts = matrix.children().filter(|child| child.has_tag_name(tag));
            parts.flat_map(|part| part.text().unwrap_or_default().split_whitespace()).collect::<Vec<_>>()
        };
        let objects: Vec<String> = words("indexes").into_iter().map(str::to_owned).collect();
        let values = words("u64values").into_iter();
        let number = |value: &str| value.parse().map_err(|_| tree.wrong(matrix, "a value", value, "a number"));
        let values = values.map(number).collect::<Result<Vec<u64>, _>>()?;
        if Some(values.len()) != objects.len().checked_mul(objects.len()) {
            let found = format!("{} values for {} objects", values.len(), objects.len());
            return Err(tree.wrong(matrix, "the matrix", &found, "a square"));
        }
        Ok(Matrix { objects, values })
    }

    pub(super) fn at(&self, row: usize, column: usize) -> u64 {
        self.values[row * self.objects.len() + column]
    }

    fn in_order_of(&self, nodes: &[NumaNode]) -> Option<Vec<Vec<u64>>> {
        let place = |node: &NumaNode| self.objects.iter().position(|object| *object == node.os_index.to_string());
        let places = nodes.iter().map(place).collect::<Option<Vec<_>>>()?;
        Some(places.iter().map(|&row| places.iter().map(|&column| self.at(row, column)).collect()).collect())
    }
}

/// As hwloc 1 wrote it: shares of a base, between the objects some levels below.
fn old_matrix(matrix: Object, nodes: &[NumaNode]) -> Option<Matrix> {
    let of_machine = matrix.parent().is_some_and(|parent| above(parent).next().is_none());
    let base: f64 = matrix.attribute("latency_base")?.parse().ok()?;
    let latencies = matrix.children().filter(|child| child.has_tag_name("latency"));
    let value = |latency: Object| latency.attribute("value")?.parse::<f64>().ok();
    let values = latencies.map(value).collect::<Option<Vec<_>>>()?;
    let fits = of_machine && values.len() == nodes.len() * nodes.len();
    let objects = nodes.iter().map(|node| node.os_index.to_string()).collect();
    fits.then(|| Matrix { objects, values: values.iter().map(|value| (value * base).round() as u64).collect() })
}
