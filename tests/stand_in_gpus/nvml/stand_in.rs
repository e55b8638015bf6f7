//! The stand-in itself, asked by the real wrapper what the sampler does not ask: identity, places, links.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus, TopologyLevel};
use nvml_wrapper::error::NvmlError;

use crate::support::fakes::FakeNvml;

fn nvml(fake: &FakeNvml) -> Nvml {
    Nvml::builder().lib_path(fake.library().as_os_str()).init().unwrap()
}

/// Two GPUs with two links between them on one node, one on the other node with a link to a switch.
const MACHINE: &str = r#"{
    "gpus": [
        {"numa_node": 0, "cpus": [0, 3], "nvlinks": [{"to": 1, "version": 4}, {"to": 1, "version": 4, "active": false}]},
        {"numa_node": 0, "cpus": [0, 3], "nvlinks": [{"to": 0, "version": 4}, {"to": 0, "version": 4, "active": false}], "mig": true},
        {"numa_node": 1, "cpus": [64, 67], "nvlinks": [{"version": 3}], "mig": null, "compute_capability": [8, 0], "uuid": "GPU-c", "pci": "00000001:A1:00.0"}
    ],
    "no_peer_access": [[0, 2]]
}"#;

#[test]
fn gpus_are_found_by_index_uuid_and_bus() {
    let fake = FakeNvml::new(MACHINE);
    let nvml = nvml(&fake);
    assert_eq!(nvml.device_count().unwrap(), 3);
    for device in [nvml.device_by_uuid("GPU-c").unwrap(), nvml.device_by_pci_bus_id("00000001:A1:00.0").unwrap()] {
        assert_eq!(device.index().unwrap(), 2);
    }
    assert!(matches!(nvml.device_by_uuid("GPU-z"), Err(NvmlError::NotFound)));
    assert!(matches!(nvml.device_by_index(3), Err(NvmlError::InvalidArg)));
    let third = nvml.device_by_index(2).unwrap();
    let pci = third.pci_info().unwrap();
    assert_eq!((pci.bus_id.as_str(), pci.domain, pci.bus), ("00000001:A1:00.0", 1, 0xa1));
    let capability = third.cuda_compute_capability().unwrap();
    assert_eq!((capability.major, capability.minor), (8, 0));
    assert!(matches!(third.mig_mode(), Err(NvmlError::NotSupported)));
    let mig = |index| nvml.device_by_index(index).unwrap().mig_mode().unwrap().current;
    assert_eq!((mig(0), mig(1)), (0, 1));
}

#[test]
fn places_and_links_are_told() {
    let fake = FakeNvml::new(MACHINE);
    let nvml = nvml(&fake);
    let gpu = |index| nvml.device_by_index(index).unwrap();
    let (a, b, c) = (gpu(0), gpu(1), gpu(2));
    assert_eq!((a.numa_node_id().unwrap(), c.numa_node_id().unwrap()), (0, 1));
    assert_eq!((a.cpu_affinity(2).unwrap(), c.cpu_affinity(2).unwrap()), (vec![0b1111, 0], vec![0, 0b1111]));
    assert_eq!(c.memory_affinity(1, 0).unwrap(), [0b10]);
    let ancestor = |x: &nvml_wrapper::Device<'_>, y: &nvml_wrapper::Device<'_>| nvml.topology_common_ancestor(x, y).unwrap();
    assert_eq!((ancestor(&a, &b), ancestor(&a, &c)), (TopologyLevel::HostBridge, TopologyLevel::System));
    let link = a.link_wrapper_for(0);
    assert_eq!((link.is_active().unwrap(), link.version().unwrap()), (true, 4));
    assert_eq!(link.remote_pci_info().unwrap().bus_id, b.pci_info().unwrap().bus_id);
    assert!(!a.link_wrapper_for(1).is_active().unwrap());
    assert!(matches!(a.link_wrapper_for(2).is_active(), Err(NvmlError::InvalidArg)));
    use P2pCapabilitiesIndex::{Atomics, NvLink, Read};
    let statuses = |x: &nvml_wrapper::Device<'_>, y| [Read, NvLink, Atomics].map(|what| x.p2p_status(y, what).unwrap());
    assert_eq!(statuses(&a, &b), [P2pStatus::Ok; 3]);
    assert_eq!(statuses(&a, &c), [P2pStatus::NotSupported; 3]);
    assert_eq!(statuses(&b, &c), [P2pStatus::Ok, P2pStatus::NotSupported, P2pStatus::NotSupported], "over PCIe alone");
}
