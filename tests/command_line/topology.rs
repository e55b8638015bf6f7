//! `dualpool topology`: machines that files show, files that show none, and the machine the tests run on. No GPU is needed.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use dualpool_types::topology::{Link, NvLinkEnd, PciPath, Topology};

use crate::support::{program, schemas};

/// A folder to run the program in, without a settings file and without GPUs of the tester.
struct Bench(TempDir);

impl Bench {
    fn new() -> Bench {
        Bench(tempfile::tempdir().unwrap())
    }

    fn run(&self, args: &[&str]) -> Output {
        program::dualpool(&self.0, args).output().unwrap()
    }

    #[track_caller]
    fn prints(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says of a file with this text.
    #[track_caller]
    fn refuses(&self, text: &[u8]) -> String {
        std::fs::write(self.0.path().join("odd.xml"), text).unwrap();
        let output = self.run(&["topology", "--from-xml", "odd.xml"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: odd.xml: ") && said.contains("lstopo"), "{said}");
        assert!(output.stdout.is_empty() && !self.0.path().join("artifacts").exists(), "{said}");
        said
    }

    fn document(&self, dir: &str) -> Topology {
        let text = std::fs::read_to_string(self.0.path().join(dir).join("topology.json")).unwrap();
        assert_eq!(violations(&serde_json::from_str(&text).unwrap()), Vec::<String>::new());
        serde_json::from_str(&text).unwrap()
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/topology").join(name)
}

/// The document of a file that all tests may read.
fn shown_by(name: &str) -> Topology {
    let bench = Bench::new();
    bench.prints(&["topology", "--from-xml", file(name).to_str().unwrap()]);
    bench.document("artifacts/topology")
}

fn violations(document: &Value) -> Vec<String> {
    schemas::violations("topology.json", document)
}

fn path(topology: &Topology, from: u32, to: u32) -> Option<PciPath> {
    topology.link(from, to).unwrap().path
}

#[test]
fn a_dgx_2_has_16_gpus_on_2_nodes_with_6_nvlinks_between_each_two() {
    let dgx = shown_by("nvidia-dgx2-16xV100.xml");
    assert_eq!((dgx.packages.len(), dgx.gpus.len(), dgx.links.len()), (2, 16, 16 * 15));
    for node in [0, 1] {
        assert_eq!(dgx.gpus.iter().filter(|gpu| gpu.numa_node == Some(node)).count(), 8);
    }
    assert_eq!(dgx.numa_distances, Some(vec![vec![10, 21], vec![21, 10]]));
    assert_eq!(dgx.gpus[0].uuid.as_deref(), Some("GPU-d3977428-7a30-086b-2e20-5c1eeed647c6"));
    assert_eq!(dgx.gpus[15].cpus.to_string(), "24-25");
    for gpu in &dgx.gpus {
        let peers = gpu.nvlinks.as_ref().unwrap();
        assert_eq!(peers.len(), 6, "{peers:?}");
        assert!(peers.iter().all(|peer| (peer.to, peer.bytes_per_s) == (NvLinkEnd::NvSwitch, Some(25_000_000_000))), "{peers:?}");
    }
    for Link { nvlink, from, to, .. } in &dgx.links {
        let nvlink = nvlink.as_ref().unwrap_or_else(|| panic!("GPU{from} to GPU{to}"));
        assert_eq!((nvlink.through, nvlink.links, nvlink.bytes_per_s), (NvLinkEnd::NvSwitch, Some(6), Some(150_000_000_000)));
    }
    assert_eq!(
        [path(&dgx, 0, 1), path(&dgx, 0, 2), path(&dgx, 0, 8)],
        [Some(PciPath::Pix), Some(PciPath::Pxb), Some(PciPath::Sys)]
    );
    assert!(dgx.notes.iter().any(|note| note.contains("no NVSwitch in common")), "{:?}", dgx.notes);
}

#[test]
fn two_sockets_of_four_gpus_each() {
    let machine = shown_by("synthetic-2socket-8gpu.xml");
    let nodes: Vec<_> = machine.gpus.iter().map(|gpu| (gpu.numa_node, gpu.cpus.to_string())).collect();
    assert_eq!(nodes[..4], vec![(Some(0), "0-7".to_string()); 4]);
    assert_eq!(nodes[4..], vec![(Some(1), "8-15".to_string()); 4]);
    assert_eq!((path(&machine, 0, 3), path(&machine, 3, 4)), (Some(PciPath::Phb), Some(PciPath::Sys)));
    assert!(
        machine.gpus.iter().all(|gpu| gpu.nvlinks.is_none()),
        "the file has no NVLinks, which is not to say that there are none"
    );
    assert_eq!(machine.numa_nodes[1].memory_bytes.unwrap().0, 512 << 30);
    assert_eq!(machine.numa_distances, None);
}

#[test]
fn switches_nics_and_gpus_of_other_makers_are_told_apart() {
    let machine = shown_by("switches.xml");
    let names: Vec<_> = machine.gpus.iter().map(|gpu| (gpu.vendor.as_str(), gpu.name.as_deref().unwrap())).collect();
    assert_eq!(names[..3], [("nvidia", "NVIDIA H200"); 3]);
    assert_eq!(names[3..], [("amd", "AMD Instinct MI300X")], "the management chip's display is no GPU");
    assert_eq!(machine.gpus[3].memory_bytes.unwrap().0, 192 << 30);
    assert_eq!([1, 2, 3].map(|to| path(&machine, 0, to)), [Some(PciPath::Pxb), Some(PciPath::Pxb), Some(PciPath::Node)]);
    assert_eq!(path(&machine, 1, 2), Some(PciPath::Pix));
    let nics: Vec<_> = machine.nics.iter().map(|nic| (nic.names.join(" "), nic.numa_node)).collect();
    assert_eq!(nics, [("ib0 mlx5_0".to_string(), Some(0)), ("eth0".to_string(), Some(0)), ("eth1".to_string(), Some(1))]);
    let near: Vec<_> = machine.gpus[0].nics.iter().map(|near| (near.nic, near.path)).collect();
    assert_eq!(near, [(0, Some(PciPath::Pix)), (1, Some(PciPath::Phb)), (2, Some(PciPath::Sys))]);
    assert!(machine.notes.iter().any(|note| note.starts_with("1 GPU is not of NVIDIA")), "{:?}", machine.notes);
}

/// A machine without PCI, with the given parts in it.
fn small(version: &str, inner: &str, after: &str) -> String {
    let sets = r#"cpuset="0x3" nodeset="0x1""#;
    format!(
        r#"<topology{version}><object type="Machine" os_index="0" {sets}>{inner}
        <object type="Core" {sets}><object type="PU" os_index="0" cpuset="0x1" nodeset="0x1"/>
        <object type="PU" os_index="1" cpuset="0x2" nodeset="0x1"/></object></object>{after}</topology>"#
    )
}

fn of(xml: &str) -> Topology {
    let found = dualpool_machine::topology::of_xml(xml, None).unwrap();
    assert_eq!(violations(&serde_json::to_value(&found).unwrap()), Vec::<String>::new());
    found
}

#[test]
fn a_machine_without_gpus_or_pci_is_complete_and_says_so() {
    let machine = of(&small("", "", ""));
    assert_eq!((machine.gpus.len(), machine.numa_nodes.len(), machine.numa_nodes[0].cores), (0, 1, 1));
    for said in ["no GPU", "no PCI device"] {
        assert!(machine.notes.iter().any(|note| note.contains(said)), "{said}: {:?}", machine.notes);
    }
}

#[test]
fn a_gpu_that_is_not_on_pci_is_a_gpu() {
    let machine = of(&small(r#" version="2.0""#, r#"<object type="OSDev" name="cuda0" osdev_type="5" gp_index="9"/>"#, ""));
    let gpu = &machine.gpus[0];
    assert_eq!((gpu.pci_bus_id.as_deref(), gpu.numa_node, gpu.cpus.to_string()), (None, Some(0), "0-1".to_string()));
}

#[test]
fn later_forms_are_read_and_those_not_known_yet_are_noted() {
    let nic = r#"<object type="PCIDev" pci_busid="0000:01:00.0" pci_type="0200 [15b3:1021] [0:0] 0">
        <object type="OSDev" name="eth0" osdev_type="16"/><object type="OSDev" name="nvme0n1" osdev_type="1"/></object>"#;
    for (version, notes) in [("2.0", 0), ("3.0", 0), ("4.2", 1)] {
        let machine = of(&small(&format!(" version=\"{version}\""), nic, ""));
        assert_eq!(machine.nics[0].names, ["eth0"], "{version}");
        assert_eq!(machine.notes.iter().filter(|note| note.contains("newer")).count(), notes, "{version}");
    }
}

#[test]
fn hwloc_1_named_things_otherwise() {
    let node = |n: u32| {
        format!(
            r#"<object type="NUMANode" os_index="{n}" cpuset="0x0000000{0}" nodeset="0x0000000{0}" local_memory="1024">
            <object type="Socket" os_index="{n}" cpuset="0x0000000{0}" nodeset="0x0000000{0}">
            <object type="PU" os_index="{n}" cpuset="0x0000000{0}" nodeset="0x0000000{0}"/></object></object>"#,
            n + 1
        )
    };
    let distances = r#"<distances nbobjs="2" relative_depth="1" latency_base="10.000000">
        <latency value="1.0"/><latency value="2.1"/><latency value="2.1"/><latency value="1.0"/></distances>"#;
    let xml = format!(
        r#"<topology><object type="Machine" os_index="0" cpuset="0x3">{distances}{}{}</object></topology>"#,
        node(0),
        node(1)
    );
    let machine = of(&xml);
    assert_eq!((machine.packages.len(), machine.numa_nodes.len()), (2, 2));
    assert_eq!(machine.numa_distances, Some(vec![vec![10, 21], vec![21, 10]]));
}

#[test]
fn what_is_no_topology_is_refused_with_what_is_wrong() {
    let bench = Bench::new();
    let dgx = std::fs::read_to_string(file("nvidia-dgx2-16xV100.xml")).unwrap();
    assert!(bench.refuses(b"").contains("is empty"));
    assert!(bench.refuses(b"\x89PNG\r\n\x1a\n\0\0\xff").contains("is not XML"));
    assert!(bench.refuses(&dgx.as_bytes()[..20_000]).contains("is not XML"));
    assert!(bench.refuses(b"<svg/>").contains("<svg>"));
    assert!(bench.refuses(b"<topology version=\"2.0\"/>").contains("no hardware thread"));
    let said = bench.refuses(dgx.replacen("cpuset=\"0x00000003\"", "cpuset=\"all\"", 1).as_bytes());
    assert!(said.contains("line 9") && said.contains("`all`"), "{said}");
    let said = bench.refuses(dgx.replacen("type=\"PU\" os_index=\"0\"", "type=\"PU\" os_index=\"4294967295\"", 1).as_bytes());
    assert!(said.contains("`4294967295`") && said.contains("below 65536"), "{said}");
    let said = bench.refuses(dgx.replacen("25000 25000", "25000", 1).as_bytes());
    assert!(said.contains("NVLinkBandwidth") && said.contains("783 values for 28 objects"), "{said}");
    let deep = format!("<topology>{}{}</topology>", "<object>".repeat(100_000), "</object>".repeat(100_000));
    assert!(bench.refuses(deep.as_bytes()).contains("more than 256 deep"));
    let entities = r#"<!DOCTYPE t [<!ENTITY a "&b;&b;"><!ENTITY b "&a;&a;">]><topology>&a;</topology>"#;
    assert!(bench.refuses(entities.as_bytes()).contains("is not XML"));
}

#[test]
fn a_file_that_cannot_be_read_or_never_ends_is_refused() {
    let bench = Bench::new();
    for (path, said) in [("nowhere.xml", "nowhere.xml: cannot be read"), (".", "cannot be read"), ("/dev/zero", "larger than")] {
        let output = bench.run(&["topology", "--from-xml", path]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
}

#[test]
fn this_machine_is_shown_and_kept_and_reported_again() {
    let bench = Bench::new();
    let shown = bench.prints(&["topology"]);
    let found = bench.document("artifacts/topology");
    let threads: usize = found.numa_nodes.iter().map(|node| node.cpus.len()).sum();
    assert!(threads > 0 && found.numa_nodes.iter().any(|node| node.memory_bytes.is_some()), "{found:?}");
    assert!(shown.contains("NUMA node") && shown.contains("artifacts/topology/topology.json"), "{shown}");
    let drawing = std::fs::read_to_string(bench.0.path().join("artifacts/topology/topology.svg")).unwrap();
    std::fs::remove_file(bench.0.path().join("artifacts/topology/topology.svg")).unwrap();
    let again = bench.prints(&["report", "artifacts/topology"]);
    assert_eq!(shown.lines().next(), again.lines().next());
    assert_eq!(std::fs::read_to_string(bench.0.path().join("artifacts/topology/topology.svg")).unwrap(), drawing);
}

#[test]
fn the_target_does_the_same_in_a_folder_of_its_own() {
    let bench = Bench::new();
    assert!(bench.prints(&["list-targets"]).contains("\ntopology_probe "));
    bench.prints(&["run", "topology_probe"]);
    let runs: Vec<_> = std::fs::read_dir(bench.0.path().join("artifacts/topology_probe")).unwrap().collect();
    assert_eq!(runs.len(), 1);
    let printed = bench.prints(&["run", "topology_probe", "--json", "--out", "mine"]);
    assert_eq!(bench.document("mine"), serde_json::from_str::<Topology>(&printed).unwrap());
    let taken = bench.run(&["run", "topology_probe", "--out", "mine"]);
    assert_eq!(taken.status.code(), Some(2), "{}", String::from_utf8_lossy(&taken.stderr));
}

#[test]
fn json_is_the_document_and_nothing_else() {
    let bench = Bench::new();
    let printed = bench.prints(&["topology", "--json", "--out", "here", "--from-xml", file("switches.xml").to_str().unwrap()]);
    assert_eq!(bench.document("here"), serde_json::from_str::<Topology>(&printed).unwrap());
}

#[test]
fn the_matrix_speaks_the_words_of_nvidia_smi() {
    let shown = Bench::new().prints(&["topology", "--from-xml", file("switches.xml").to_str().unwrap()]);
    let row = |name: &str| {
        let of_matrix = |line: &&str| line.starts_with(name) && !line.contains("0000:");
        let line = shown.lines().find(of_matrix).unwrap_or_else(|| panic!("{name} in {shown}"));
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("GPU0"), "X PXB PXB NODE PIX PHB SYS 0-3 0");
    assert_eq!(row("NIC0"), "PIX PXB PXB NODE X PHB SYS 0");
    for word in ["CPU affinity", "NUMA affinity", "Legend:", "NV#", "NIC0  ib0, mlx5_0 (0000:04:00.0)"] {
        assert!(shown.contains(word), "`{word}` is missing in {shown}");
    }
    let dgx = Bench::new().prints(&["topology", "--from-xml", file("nvidia-dgx2-16xV100.xml").to_str().unwrap()]);
    assert_eq!(dgx.matches("NV6").count(), 16 * 15);
}

#[test]
fn drawings_are_well_formed_and_show_every_device() {
    for name in ["nvidia-dgx2-16xV100.xml", "synthetic-2socket-8gpu.xml", "switches.xml"] {
        let found = shown_by(name);
        let svg = dualpool_report::topology::svg(&found);
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<_> = document.descendants().filter_map(|node| node.text()).collect();
        for device in found
            .gpus
            .iter()
            .map(|gpu| format!("GPU{}  ", gpu.index))
            .chain(found.nics.iter().map(|nic| format!("NIC{}  ", nic.index)))
        {
            assert!(texts.iter().any(|text| text.starts_with(&device)), "{device} is missing in the drawing of {name}");
        }
        let cells = document.descendants().filter(|node| node.attribute("class") == Some("cell")).count();
        assert_eq!(cells, found.gpus.len() * found.gpus.len());
    }
}

#[test]
fn a_document_of_another_version_is_refused() {
    let bench = Bench::new();
    bench.prints(&["topology", "--out", "old"]);
    let path = bench.0.path().join("old/topology.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"schema_version\": 1", "\"schema_version\": 9", 1)).unwrap();
    let output = bench.run(&["report", "old"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("schema version 9"));
}
