//! Which machine this is, as far as it matters to figures that were measured on it; and in which of its memories the KV of an engine lies.

use std::fs;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::Bytes;

use super::{CoreSet, Gpus};

const UNKNOWN: &str = "unknown";

/// What figures of copies depend on. Two machines of which all of it is known and equal are taken for the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The name of the processor; `unknown` where the system does not tell.
    pub cpu: String,
    /// The number of hardware threads; null where the system does not tell.
    pub threads: Option<u32>,
    /// The number of NUMA nodes.
    pub numa_nodes: u32,
    /// The memory, rounded to whole GiB: the kernel's own share differs from boot to boot. Null where the system does not tell.
    pub memory_gib: Option<u64>,
    /// The UUID and the name of every GPU.
    pub gpus: Vec<String>,
}

impl Machine {
    pub fn detect(gpus: &Gpus) -> Machine {
        Machine {
            cpu: cpu_name().unwrap_or_else(|| UNKNOWN.into()),
            threads: threads(&system_file("/proc/cpuinfo")),
            numa_nodes: numa_nodes(Path::new("/sys/devices/system/node")),
            memory_gib: memory_total().map(|memory| (memory.0 + (1 << 29)) >> 30),
            gpus: gpus.list.iter().map(|gpu| format!("{} {}", gpu.uuid, gpu.name)).collect(),
        }
    }

    /// What differs on `other`, or is not known, which says nothing of being the same: its name, its value here, and there.
    pub fn differences(&self, other: &Machine) -> Vec<(&'static str, String, String)> {
        let listed = |gpus: &[String]| if gpus.is_empty() { "none".to_owned() } else { gpus.join(", ") };
        let threads = |machine: &Machine| machine.threads.map_or(UNKNOWN.into(), |count| count.to_string());
        let memory = |machine: &Machine| machine.memory_gib.map_or(UNKNOWN.into(), |gib| format!("{gib} GiB"));
        let all = [
            ("processor", self.cpu.clone(), other.cpu.clone()),
            ("number of hardware threads", threads(self), threads(other)),
            ("number of NUMA nodes", self.numa_nodes.to_string(), other.numa_nodes.to_string()),
            ("amount of memory", memory(self), memory(other)),
            ("list of GPUs", listed(&self.gpus), listed(&other.gpus)),
        ];
        all.into_iter().filter(|(_, here, there)| here != there || here == UNKNOWN).collect()
    }
}

impl CoreSet {
    /// The memory in which an engine on these cores has its KV: copies between the same two memories cost the same.
    pub fn memory(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(u32::to_string).collect();
        format!("NUMA node {}", nodes.join("+"))
    }
}

/// A file of the system's. An unreadable one is an empty one: nothing is found in it.
pub fn system_file(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The processor's name.
pub fn cpu_name() -> Option<String> {
    named(&system_file("/proc/cpuinfo"))
}

/// All of this machine's memory.
pub fn memory_total() -> Option<Bytes> {
    memory(&system_file("/proc/meminfo"), "MemTotal:")
}

/// What programs can still get of it.
pub fn memory_available() -> Option<Bytes> {
    memory(&system_file("/proc/meminfo"), "MemAvailable:")
}

fn named(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn threads(cpuinfo: &str) -> Option<u32> {
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    (count > 0).then_some(count as u32)
}

fn memory(meminfo: &str, key: &str) -> Option<Bytes> {
    let kib = meminfo.lines().find_map(|l| l.strip_prefix(key))?.trim().strip_suffix("kB")?;
    Some(Bytes(kib.trim().parse::<u64>().ok()?.checked_mul(1024)?))
}

/// A kernel without NUMA has no such folder, and one node.
fn numa_nodes(folder: &Path) -> u32 {
    let is_node =
        |name: &str| name.strip_prefix("node").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()));
    let nodes = fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| is_node(&entry.file_name().to_string_lossy()));
    (nodes.count() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_formats() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t: fpu\nprocessor\t: 1\nmodel name\t: AMD EPYC 7B13";
        assert_eq!((named(cpuinfo).as_deref(), threads(cpuinfo)), (Some("AMD EPYC 7B13"), Some(2)));
        let meminfo = "MemTotal:       24576 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB";
        assert_eq!(memory(meminfo, "MemTotal:"), Some(Bytes::from_mib(24)));
        assert_eq!(memory(meminfo, "MemAvailable:"), Some(Bytes::from_mib(2)));
        assert_eq!((named(""), threads(""), memory("MemTotal: many", "MemTotal:")), (None, None, None));
    }

    #[test]
    fn only_numbered_nodes_count() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["node0", "node1", "node12", "nodes", "node", "online"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(numa_nodes(folder.path()), 3);
        assert_eq!(numa_nodes(Path::new("/nonexistent")), 1);
    }

    #[test]
    fn a_machine_is_itself_and_names_what_differs_on_another() {
        let here = Machine::detect(&Gpus::default());
        assert!(here.threads > Some(0) && here.memory_gib > Some(0));
        assert_eq!(here.differences(&Machine::detect(&Gpus::default())), []);
        let there = Machine { threads: here.threads.map(|count| count + 1), gpus: vec!["GPU-1 H200".into()], ..here.clone() };
        let names: Vec<_> = here.differences(&there).into_iter().map(|(what, _, there)| (what, there)).collect();
        let threads = there.threads.unwrap().to_string();
        assert_eq!(names, [("number of hardware threads", threads), ("list of GPUs", "GPU-1 H200".to_owned())]);
    }

    #[test]
    fn what_is_not_known_is_not_the_same() {
        let unknown = Machine { threads: None, memory_gib: None, ..Machine::detect(&Gpus::default()) };
        let differs = |what, value: &str| (what, value.to_owned(), value.to_owned());
        let expected = [differs("number of hardware threads", UNKNOWN), differs("amount of memory", UNKNOWN)];
        assert_eq!(unknown.differences(&unknown), expected);
    }

    #[test]
    fn sets_of_one_node_share_its_memory() {
        let set = |compute: u32, nodes: &[u32]| {
            CoreSet { compute: vec![compute], threads: vec![compute], nodes: nodes.to_vec(), shares_cores: false }.memory()
        };
        assert_eq!(set(0, &[0]), set(1, &[0]));
        assert_eq!(set(0, &[0, 1]), "NUMA node 0+1");
    }
}
