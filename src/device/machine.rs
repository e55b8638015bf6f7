//! Which machine this is, as far as it matters to figures that were measured on it; and in which of its memories the KV of an engine lies.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CoreSet, Gpus};

/// What figures of copies hang on. Two machines that are equal in all of it are taken for the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The processor's name; `unknown` where the system does not tell.
    pub cpu: String,
    /// Hardware threads.
    pub threads: u32,
    pub numa_nodes: u32,
    /// Rounded to whole GiB: the kernel's own share differs from boot to boot.
    pub memory_gib: u64,
    /// UUID and name of every GPU.
    pub gpus: Vec<String>,
}

impl Machine {
    pub fn detect(gpus: &Gpus) -> Machine {
        let cpuinfo = read("/proc/cpuinfo");
        let gib = |bytes: u64| (bytes + (1 << 29)) >> 30;
        Machine {
            cpu: cpu_name(&cpuinfo).unwrap_or_else(|| "unknown".into()),
            threads: cpuinfo.lines().filter(|line| line.starts_with("processor")).count() as u32,
            numa_nodes: numa_nodes(Path::new("/sys/devices/system/node")),
            memory_gib: gib(memory_bytes(&read("/proc/meminfo")).unwrap_or(0)),
            gpus: gpus.list.iter().map(|gpu| format!("{} {}", gpu.uuid, gpu.name)).collect(),
        }
    }

    /// What differs on `other`: its name, its value here, and there.
    pub fn differences(&self, other: &Machine) -> Vec<(&'static str, String, String)> {
        let listed = |gpus: &[String]| if gpus.is_empty() { "none".to_owned() } else { gpus.join(", ") };
        let all = [
            ("processor", self.cpu.clone(), other.cpu.clone()),
            ("number of hardware threads", self.threads.to_string(), other.threads.to_string()),
            ("number of NUMA nodes", self.numa_nodes.to_string(), other.numa_nodes.to_string()),
            ("amount of memory", format!("{} GiB", self.memory_gib), format!("{} GiB", other.memory_gib)),
            ("list of GPUs", listed(&self.gpus), listed(&other.gpus)),
        ];
        all.into_iter().filter(|(_, here, there)| here != there).collect()
    }
}

impl CoreSet {
    /// The memory in which an engine on these cores has its KV: copies between the same two memories cost the same.
    pub fn memory(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(u32::to_string).collect();
        format!("NUMA node {}", nodes.join("+"))
    }
}

/// An unreadable file is an empty one: nothing is found in it.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// From the text of `/proc/cpuinfo`.
pub fn cpu_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// From the text of `/proc/meminfo`.
pub fn memory_bytes(meminfo: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
    Some(kib.trim().parse::<u64>().ok()? * 1024)
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
        assert_eq!(cpu_name("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t: fpu").as_deref(), Some("AMD EPYC 7B13"));
        assert_eq!(memory_bytes("MemTotal:       24576 kB\nMemFree: 1 kB"), Some(24 << 20));
        assert_eq!((cpu_name(""), memory_bytes("MemTotal: many")), (None, None));
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
        assert!(here.threads > 0 && here.memory_gib > 0);
        assert_eq!(here.differences(&Machine::detect(&Gpus::default())), []);
        let there = Machine { threads: here.threads + 1, gpus: vec!["GPU-1 H200".into()], ..here.clone() };
        let names: Vec<_> = here.differences(&there).into_iter().map(|(what, _, there)| (what, there)).collect();
        let threads = there.threads.to_string();
        assert_eq!(names, [("number of hardware threads", threads), ("list of GPUs", "GPU-1 H200".to_owned())]);
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
