//! `dualpool topology` on machines with GPUs: what hwloc sees comes from a file, NVML and CUDA are stand-ins.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use dualpool_types::topology::{Disagreement, Mig, NvLinkEnd, P2p, PciPath, Topology};

use crate::support::fake_cuda::{self, load_from};
use crate::support::fakes::{self, FakeNvml};
use crate::support::{program, schemas};

/// The program in a folder of its own, with this NVML, on the machine that a file shows.
fn topology(nvml: &FakeNvml, hardware: &str) -> (Command, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program::dualpool(&folder, &["topology", "--json"]);
    let hardware = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/topology").join(hardware);
    // hwloc takes the file for this machine.
    command.env("HWLOC_XMLFILE", hardware);
    load_from(nvml.folder(), &mut command);
    (command, folder)
}

fn document(mut command: Command) -> Topology {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schemas::violations("topology.json", &value), Vec::<String>::new());
    serde_json::from_value(value).unwrap()
}

fn asked(script: &str) -> Topology {
    let nvml = FakeNvml::new(script);
    let (command, _folder) = topology(&nvml, "synthetic-2socket-8gpu.xml");
    document(command)
}

#[test]
fn gpus_of_nvml_and_hwloc_meet_at_their_address_and_keep_nvmls_order() {
    let found = asked(
        r#"{"gpus": [
            {"pci": "00000000:81:00.0", "numa_node": 1, "cpus": [8, 15], "mig": true, "name": "NVIDIA H200"},
            {"pci": "00000000:11:00.0", "numa_node": 0, "cpus": [0, 7], "mig": null}
        ], "no_peer_access": [[0, 1]]}"#,
    );
    let of = |i: usize| (found.gpus[i].pci_bus_id.as_deref().unwrap(), found.gpus[i].numa_node, found.gpus[i].mig);
    assert_eq!(of(0), ("0000:81:00.0", Some(1), Mig::Enabled));
    assert_eq!(of(1), ("0000:11:00.0", Some(0), Mig::NotSupported));
    assert_eq!(found.gpus[0].name.as_deref(), Some("NVIDIA H200"));
    assert_eq!(found.gpus[0].compute_capability.as_deref(), Some("9.0"));
    assert_eq!(found.disagreements, []);
    let P2p { read, write, why_not, .. } = found.link(0, 1).unwrap().p2p.clone().unwrap();
    assert!(!read && !write && why_not.unwrap().starts_with("read: "));
    // The file shows six more, which this NVML does not know.
    assert_eq!(found.gpus.len(), 8);
    assert_eq!(found.notes.iter().filter(|note| note.contains("NVML does not know it")).count(), 6, "{:?}", found.notes);
    assert_eq!(found.link(2, 3).unwrap().p2p, None);
    assert_eq!(found.link(2, 3).unwrap().path, Some(PciPath::Phb));
}

#[test]
fn disagreements_are_named_with_both_sides() {
    let found = asked(
        r#"{"gpus": [
            {"pci": "00000000:11:00.0", "numa_node": 1, "cpus": [0, 7]},
            {"pci": "00000000:91:00.0", "numa_node": 1, "cpus": [4, 15]}
        ]}"#,
    );
    let said = |of: &str, fact: &str, hwloc: &str, nvml: &str, taken: &str| Disagreement {
        of: of.into(),
        fact: fact.into(),
        hwloc: hwloc.into(),
        nvml: nvml.into(),
        taken: taken.into(),
    };
    let expected = [
        said("GPU0", "numa_node", "0", "1", "hwloc"),
        said("GPU1", "cpus", "8-15", "4-15", "hwloc"),
        said("GPU0 - GPU1", "path", "SYS", "PHB", "NVML"),
    ];
    assert_eq!(found.disagreements, expected);
    assert_eq!((found.gpus[0].numa_node, found.link(1, 0).unwrap().path), (Some(0), Some(PciPath::Phb)));
    let shown = dualpool_report::topology::text(&found);
    assert!(shown.contains("GPU0: numa_node is 0 for hwloc and 1 for NVML; hwloc is believed"), "{shown}");
}

#[test]
fn nvlinks_are_counted_by_where_they_lead() {
    let switch = r#"{"version": 6}"#;
    let found = asked(&format!(
        r#"{{"gpus": [
            {{"pci": "00000000:11:00.0", "nvlinks": [{{"to": 1, "version": 4}}, {{"to": 1, "version": 4}}, {{"to": 1, "version": 4, "active": false}}]}},
            {{"pci": "00000000:21:00.0", "nvlinks": [{{"to": 0, "version": 4}}, {{"to": 0, "version": 4}}]}},
            {{"pci": "00000000:31:00.0", "nvlinks": [{switch}, {switch}, {switch}]}},
            {{"pci": "00000000:41:00.0", "nvlinks": [{switch}, {switch}]}}
        ]}}"#
    ));
    let direct = found.link(0, 1).unwrap().nvlink.clone().unwrap();
    assert_eq!((direct.through, direct.links, direct.version.as_deref()), (NvLinkEnd::Gpu, Some(2), Some("3.0")));
    assert_eq!(direct.bytes_per_s, Some(50_000_000_000));
    let switched = found.link(2, 3).unwrap().nvlink.clone().unwrap();
    assert_eq!((switched.through, switched.links, switched.version.as_deref()), (NvLinkEnd::NvSwitch, Some(2), Some("4.0")));
    assert_eq!(found.link(1, 2).unwrap().nvlink, None);
    assert!(dualpool_report::topology::text(&found).contains("3 x 25 GB/s to 1 switch"));
}

#[test]
fn the_drivers_word_on_a_links_speed_comes_before_the_models_and_that_before_the_versions() {
    let link =
        |speed: &str| format!(r#""nvlinks": [{{"version": 6, "mb_per_s": {speed}}}, {{"version": 6, "mb_per_s": {speed}}}]"#);
    let found = asked(&format!(
        r#"{{"gpus": [
            {{"pci": "00000000:11:00.0", "name": "NVIDIA A40", {}}},
            {{"pci": "00000000:21:00.0", "name": "NVIDIA A40", {}}},
            {{"pci": "00000000:31:00.0", "name": "NVIDIA Z9", {}}}
        ]}}"#,
        link("26562"),
        link("null"),
        link("0"),
    ));
    let rate = |gpu: usize| found.gpus[gpu].nvlinks.as_ref().unwrap()[0].bytes_per_s;
    assert_eq!([rate(0), rate(1), rate(2)], [Some(53_124_000_000), Some(28_125_000_000), Some(50_000_000_000)]);
}

#[test]
fn a_gpu_that_hwloc_does_not_see_has_nvmls_word() {
    let found = asked(r#"{"gpus": [{"pci": "00000000:E1:00.0", "numa_node": 1, "cpus": [8, 63]}]}"#);
    let gpu = &found.gpus[0];
    assert_eq!(
        (gpu.numa_node, gpu.cpus.to_string()),
        (Some(1), "8-15".to_string()),
        "CPUs that this machine does not have are left out"
    );
    assert_eq!(found.link(0, 1).unwrap().path, None);
    assert!(found.notes.iter().any(|note| note.contains("hwloc does not see it")), "{:?}", found.notes);
}

#[test]
fn a_lost_gpu_keeps_its_place_and_costs_only_its_own_answers() {
    let found = asked(
        r#"{"gpus": [
            {"pci": "00000000:11:00.0", "cpus": [0, 7], "lost_after": 0},
            {"pci": "00000000:21:00.0", "cpus": [0, 7], "nvlinks": [{"version": 6}]}
        ]}"#,
    );
    assert_eq!((found.gpus[0].memory_bytes, found.gpus[0].nvlinks.is_none(), found.gpus[0].numa_node), (None, true, Some(0)));
    assert!(found.gpus[1].memory_bytes.is_some() && found.gpus[1].nvlinks.as_ref().is_some_and(|peers| peers.len() == 1));
    assert!(found.notes.iter().any(|note| note.starts_with("GPU0 is lost")), "{:?}", found.notes);
}

#[test]
fn a_driver_that_does_not_run_leaves_what_hwloc_knows_and_says_so() {
    let found = asked(r#"{"init_error": 9}"#);
    assert_eq!(found.gpus.len(), 8);
    assert!(found.links.iter().all(|link| link.p2p.is_none() && link.path.is_some()));
    let said = |note: &String| note.contains("not running") && note.contains("NVLinks") && note.contains("not known");
    assert!(found.notes.iter().any(said), "{:?}", found.notes);
}

/// Of the stand-in driver's GPUs, in the order of the machine.
const UUIDS: [&str; 2] = ["GPU-00000000-0000-0000-0000-000000000000", "GPU-00000000-0000-0000-0000-000000000001"];

#[test]
fn copies_are_measured_both_ways_between_gpus_that_cuda_counts_otherwise() {
    let nvml = FakeNvml::new(&format!(
        r#"{{"gpus": [{{"pci": "00000000:11:00.0", "uuid": "{}"}}, {{"pci": "00000000:21:00.0", "uuid": "{}"}}]}}"#,
        UUIDS[0], UUIDS[1]
    ));
    let (mut command, _folder) = topology(&nvml, "synthetic-2socket-8gpu.xml");
    command.arg("--measure");
    for name in fake_cuda::LIBRARY_NAMES {
        std::os::unix::fs::symlink(fakes::library("fake_cuda"), nvml.folder().join(name)).unwrap();
    }
    let script = format!(r#"{{"machine": "topology-measure-{}", "order": [1, 0]}}"#, std::process::id());
    command.env("FAKE_CUDA", script).env_remove("CUDA_VISIBLE_DEVICES");
    let found = document(command);
    for (from, to) in [(0, 1), (1, 0)] {
        let measured = found.link(from, to).unwrap().measured.clone().unwrap_or_else(|| panic!("{:?}", found.notes));
        assert!(measured.peer_access && measured.bytes_per_s > 0.0, "{measured:?}");
    }
    // The file's other GPUs are none of CUDA's.
    assert_eq!(found.link(0, 2).unwrap().measured, None);
    assert_eq!(found.notes.iter().filter(|note| note.contains("was not measured")).count(), 6, "{:?}", found.notes);
}

#[test]
fn without_cuda_nothing_is_measured_and_the_rest_stands() {
    let nvml = FakeNvml::new(r#"{"gpus": [{"pci": "00000000:11:00.0"}, {"pci": "00000000:21:00.0"}]}"#);
    let (mut command, _folder) = topology(&nvml, "synthetic-2socket-8gpu.xml");
    // A machine with a driver has it in the system's folders: a file that is no library stands in its way.
    for name in fake_cuda::LIBRARY_NAMES {
        std::fs::write(nvml.folder().join(name), "").unwrap();
    }
    command.arg("--measure");
    let found = document(command);
    assert_eq!(found.gpus.len(), 8);
    assert!(found.notes.iter().any(|note| note.starts_with("nothing was measured: ")), "{:?}", found.notes);
}
