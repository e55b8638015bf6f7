//! What an engine's processes are pinned to: the cores next to their device, and the memory next to these cores.

use dualpool_types::topology::Topology;

use super::Device;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Hardware threads; empty = any.
    pub cores: Vec<u32>,
    /// The NUMA node to take memory from while it has some left; none where the machine has one node, or the cores are in several.
    pub memory_node: Option<u32>,
}

impl Affinity {
    /// Of this machine's device, as far as this process may use what is next to it. Where the machine cannot be read, nothing is next to
    /// anything.
    pub fn of(device: &Device, machine: Option<&Topology>) -> Affinity {
        // Where the affinity cannot be read, nothing is known to be forbidden.
        let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok();
        let may_use = |cpu: u32| allowed.is_none_or(|set| set.is_set(cpu as usize).unwrap_or(false));
        Affinity::among(device, machine, may_use)
    }

    fn among(device: &Device, machine: Option<&Topology>, may_use: impl Fn(u32) -> bool) -> Affinity {
        let affinity = match device {
            Device::Cores(set) => {
                let memory_node = if let [node] = set.nodes[..] { Some(node) } else { None };
                Affinity { cores: set.compute.clone(), memory_node }
            }
            Device::Gpu(gpu) => {
                machine.and_then(|machine| machine.gpu_of_uuid(&gpu.uuid)).map_or_else(Affinity::default, |gpu| Affinity {
                    cores: gpu.cpus.numbers().iter().copied().filter(|&cpu| may_use(cpu)).collect(),
                    memory_node: gpu.numa_node,
                })
            }
            Device::Virtual(_) => Affinity::default(),
        };
        let several = machine.is_some_and(|machine| machine.numa_nodes.len() > 1);
        Affinity { memory_node: affinity.memory_node.filter(|_| several), ..affinity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CoreSet, Gpu, topology};
    use dualpool_types::Bytes;

    const TWO_SOCKETS: &str = include_str!("../../../tests/data/topology/synthetic-2socket-8gpu.xml");

    fn machine() -> Topology {
        topology::of_xml(TWO_SOCKETS, None).unwrap()
    }

    fn gpu(uuid: &str) -> Device {
        Device::Gpu(Gpu { index: 0, uuid: uuid.into(), name: String::new(), memory: Bytes(0), pci_bus_id: String::new() })
    }

    fn cores(nodes: &[u32]) -> Device {
        Device::Cores(CoreSet { compute: vec![0, 1], threads: vec![0, 1], nodes: nodes.to_vec(), shares_cores: false })
    }

    #[test]
    fn a_gpus_engine_gets_the_cores_and_the_memory_next_to_it() {
        let machine = machine();
        let of_last = |may_use: fn(u32) -> bool| {
            let uuid = machine.gpus[7].uuid.clone().unwrap();
            Affinity::among(&gpu(&uuid), Some(&machine), may_use)
        };
        assert_eq!(of_last(|_| true), Affinity { cores: (8..16).collect(), memory_node: Some(1) });
        assert_eq!(of_last(|cpu| cpu % 2 == 0).cores, [8, 10, 12, 14]);
        assert_eq!(Affinity::among(&gpu("GPU-7"), None, |_| true), Affinity::default());
        assert_eq!(Affinity::among(&gpu("GPU-elsewhere"), Some(&machine), |_| true), Affinity::default());
    }

    #[test]
    fn core_sets_bring_their_node_unless_there_is_one_or_they_span_several() {
        let mut machine = machine();
        let node = |machine: &Topology, nodes: &[u32]| Affinity::among(&cores(nodes), Some(machine), |_| true).memory_node;
        assert_eq!(node(&machine, &[1]), Some(1));
        assert_eq!(node(&machine, &[0, 1]), None);
        machine.numa_nodes.truncate(1);
        assert_eq!(node(&machine, &[0]), None);
    }
}
