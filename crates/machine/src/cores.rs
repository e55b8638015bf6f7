//! Divides the machine's cores among CPU engines: equal sets, so that engines are comparable; the hardware threads of one core stay
//! together; and a set stays within one NUMA node wherever there are engines enough for every node.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use hwlocality::Topology;
use hwlocality::object::TopologyObject;
use hwlocality::object::types::ObjectType;
use thiserror::Error;

use dualpool_types::CpuList;

/// The cores of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreSet {
    /// One hardware thread per core, by the operating system's numbers: one compute thread each.
    pub compute: Vec<u32>,
    /// All hardware threads of these cores: what the engine's processes are pinned to.
    pub threads: Vec<u32>,
    /// NUMA nodes the cores belong to, by the operating system's numbers.
    pub nodes: Vec<u32>,
    /// True when a core is shared with another set, because there are fewer cores than sets.
    pub shares_cores: bool,
}

impl fmt::Display for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cores {}", self.compute.iter().copied().collect::<CpuList>())
    }
}

#[derive(Debug, Error)]
pub enum CoresError {
    #[error(
        "{engines} engines need a core each, and this process may use {available} hardware threads; use fewer devices in the pools"
    )]
    TooFew { engines: usize, available: usize },
    #[error("hwloc cannot read this machine's topology: {why}")]
    Topology { why: String },
    #[error("cannot read which cores this process may use: {0}")]
    Affinity(nix::Error),
}

/// Divides the cores that this process may use.
pub fn machine_core_sets(engines: usize) -> Result<Vec<CoreSet>, CoresError> {
    let topology = Topology::new().map_err(|error| CoresError::Topology { why: error.to_string() })?;
    let affinity = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).map_err(CoresError::Affinity)?;
    let may_use = |thread: u32| affinity.is_set(thread as usize).unwrap_or(false);
    split_cores(&topology, may_use, engines)
}

/// Divides those cores of `topology` of which `may_use` allows a hardware thread into `engines` sets of equal size. Cores that are
/// left over stay idle.
pub fn split_cores(topology: &Topology, may_use: impl Fn(u32) -> bool, engines: usize) -> Result<Vec<CoreSet>, CoresError> {
    let nodes = nodes(topology, may_use);
    let cores: usize = nodes.iter().map(|node| node.cores.len()).sum();
    if engines <= cores {
        return Ok(divide(&nodes, engines, false));
    }
    // Virtual machines often show two hardware threads of one core as their "two cores".
    let nodes: Vec<Node> = nodes.into_iter().map(Node::with_threads_as_cores).collect();
    let threads: usize = nodes.iter().map(|node| node.cores.len()).sum();
    if engines <= threads { Ok(divide(&nodes, engines, true)) } else { Err(CoresError::TooFew { engines, available: threads }) }
}

/// The usable hardware threads of one core.
type Core = Vec<u32>;

struct Node {
    os_index: u32,
    cores: Vec<Core>,
}

impl Node {
    fn with_threads_as_cores(self) -> Node {
        let cores = self.cores.into_iter().flatten().map(|thread| vec![thread]).collect();
        Node { os_index: self.os_index, cores }
    }
}

/// NUMA nodes with at least one usable core, in hwloc's order, which puts neighbours side by side.
fn nodes(topology: &Topology, may_use: impl Fn(u32) -> bool) -> Vec<Node> {
    let threads_of = |object: &TopologyObject| -> Vec<u32> {
        let set = object.cpuset().into_iter().flat_map(|set| set.iter_set().collect::<Vec<_>>());
        set.map(|thread| usize::from(thread) as u32).filter(|&thread| may_use(thread)).collect()
    };
    let mut cores: Vec<Core> = topology.objects_with_type(ObjectType::Core).map(threads_of).collect();
    if cores.is_empty() {
        // Some containers hide the cores and show hardware threads only.
        cores = topology.objects_with_type(ObjectType::PU).map(threads_of).collect();
    }
    let mut placed = BTreeSet::new();
    let mut nodes = Vec::new();
    for numa in topology.objects_with_type(ObjectType::NUMANode) {
        let local = threads_of(numa);
        // Memory without cores of its own (HBM, CXL) is local to cores that another node has already.
        let mine: Vec<Core> =
            cores.iter().filter(|core| core.first().is_some_and(|t| local.contains(t) && placed.insert(*t))).cloned().collect();
        if !mine.is_empty() {
            nodes.push(Node { os_index: numa.os_index().unwrap_or(0) as u32, cores: mine });
        }
    }
    nodes
}

/// `engines` is between 1 and the number of cores.
fn divide(nodes: &[Node], engines: usize, shares_cores: bool) -> Vec<CoreSet> {
    let parts = if engines < nodes.len() { whole_nodes(nodes, engines) } else { parts_of_nodes(nodes, engines) };
    let size = parts.iter().map(|part| part.len()).min().unwrap_or(0);
    parts.into_iter().map(|part| core_set(&part[..size], shares_cores)).collect()
}

type Part<'a> = Vec<(u32, &'a Core)>;

fn with_node(node: &Node) -> impl Iterator<Item = (u32, &Core)> {
    node.cores.iter().map(|core| (node.os_index, core))
}

/// Fewer engines than nodes: each gets the same number of neighbouring nodes.
fn whole_nodes(nodes: &[Node], engines: usize) -> Vec<Part<'_>> {
    let each = nodes.len() / engines;
    nodes.chunks(each).take(engines).map(|nodes| nodes.iter().flat_map(with_node).collect()).collect()
}

/// The next engine always goes to the node that can give it the largest part, and of those to the emptiest.
fn parts_of_nodes(nodes: &[Node], engines: usize) -> Vec<Part<'_>> {
    let mut counts = vec![0; nodes.len()];
    for _ in 0..engines {
        let worth = |i: &usize| (nodes[*i].cores.len() / (counts[*i] + 1), Reverse(counts[*i]));
        // In reverse, because the last of equal ones wins: the lowest node is to be filled first.
        if let Some(best) = (0..nodes.len()).rev().max_by_key(worth) {
            counts[best] += 1;
        }
    }
    let parts = nodes.iter().zip(counts).filter(|(_, count)| *count > 0).flat_map(|(node, count)| {
        let size = node.cores.len() / count;
        (0..count).map(move |i| with_node(node).skip(i * size).take(size).collect())
    });
    parts.collect()
}

fn core_set(part: &[(u32, &Core)], shares_cores: bool) -> CoreSet {
    let sorted = |mut numbers: Vec<u32>| {
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    CoreSet {
        compute: sorted(part.iter().filter_map(|(_, core)| core.first().copied()).collect()),
        threads: sorted(part.iter().flat_map(|(_, core)| core.iter().copied()).collect()),
        nodes: sorted(part.iter().map(|(node, _)| *node).collect()),
        shares_cores,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(synthetic: &str) -> Topology {
        Topology::builder().from_synthetic(synthetic).unwrap().build().unwrap()
    }

    fn split(synthetic: &str, engines: usize) -> Vec<CoreSet> {
        split_cores(&machine(synthetic), |_| true, engines).unwrap()
    }

    fn shown(sets: &[CoreSet]) -> Vec<String> {
        sets.iter().map(CoreSet::to_string).collect()
    }

    #[test]
    fn two_engines_halve_a_machine() {
        assert_eq!(shown(&split("numa:1 core:8 pu:1", 2)), ["cores 0-3", "cores 4-7"]);
        assert_eq!(shown(&split("numa:1 core:2 pu:1", 2)), ["cores 0", "cores 1"]);
    }

    #[test]
    fn sets_are_equal_and_what_is_left_over_stays_idle() {
        assert_eq!(shown(&split("numa:1 core:8 pu:1", 3)), ["cores 0-1", "cores 2-3", "cores 4-5"]);
    }

    #[test]
    fn threads_of_a_core_stay_together() {
        let sets = split("numa:1 core:4 pu:2", 2);
        assert_eq!(sets[0].compute, [0, 2]);
        assert_eq!(sets[0].threads, [0, 1, 2, 3]);
        assert!(sets.iter().all(|set| !set.shares_cores));
    }

    #[test]
    fn no_set_crosses_nodes_when_every_node_has_an_engine() {
        for engines in 2..=12 {
            let sets = split("pack:2 numa:1 core:6 pu:2", engines);
            assert_eq!(sets.len(), engines);
            assert!(sets.iter().all(|set| set.nodes.len() == 1), "{engines}: {sets:?}");
            assert!(sets.iter().all(|set| set.compute.len() == sets[0].compute.len()), "{engines}: {sets:?}");
            let mut all: Vec<_> = sets.iter().flat_map(|set| set.threads.clone()).collect();
            all.sort_unstable();
            let len = all.len();
            all.dedup();
            assert_eq!(all.len(), len, "{engines}: a thread is in two sets: {sets:?}");
        }
    }

    #[test]
    fn fewer_engines_than_nodes_get_whole_nodes() {
        let sets = split("pack:4 numa:1 core:4 pu:1", 2);
        assert_eq!(shown(&sets), ["cores 0-7", "cores 8-15"]);
        assert_eq!((&sets[0].nodes[..], &sets[1].nodes[..]), (&[0, 1][..], &[2, 3][..]));
    }

    #[test]
    fn only_threads_that_the_process_may_use_are_given_out() {
        let sets = split_cores(&machine("pack:2 numa:1 core:4 pu:2"), |thread| thread % 2 == 1 && thread < 12, 2).unwrap();
        assert_eq!(shown(&sets), ["cores 1,3", "cores 9,11"]);
        assert_eq!(sets[0].threads, [1, 3]);
    }

    #[test]
    fn fewer_cores_than_engines_share_cores_and_say_so() {
        let sets = split("numa:1 core:1 pu:2", 2);
        assert_eq!(shown(&sets), ["cores 0", "cores 1"]);
        assert!(sets.iter().all(|set| set.shares_cores));
    }

    #[test]
    fn fewer_threads_than_engines_is_an_error_with_both_numbers() {
        let error = split_cores(&machine("numa:1 core:2 pu:1"), |_| true, 3).unwrap_err().to_string();
        assert!(error.contains("3 engines") && error.contains("2 hardware threads"), "{error}");
    }

    #[test]
    fn this_machine_can_be_read() {
        let sets = machine_core_sets(1).unwrap();
        assert!(!sets[0].compute.is_empty());
    }
}
