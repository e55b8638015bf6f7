//! What the virtual GPUs are like, and what goes wrong with them.

use std::path::PathBuf;
use std::sync::OnceLock;

use serde::Deserialize;

pub const GPUS_MAX: u32 = 16;

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// The CUDA version that the driver claims: 12080 is 12.8.
    pub driver: i32,
    /// 0: a driver without a GPU.
    pub gpus: u32,
    /// `order[ordinal]` is the GPU's number in the machine, which is what NVML counts by; empty: the same order.
    pub order: Vec<u32>,
    pub memory_mib: u64,
    /// Whether GPUs can access each other's memory.
    pub peers: bool,
    /// To how many others a GPU can have access at a time.
    pub peers_max: usize,
    /// Processes with the same name of the machine share its GPUs.
    pub machine: String,
    /// Whether allocations are like PyTorch's expandable segments, which have no IPC handle.
    pub expandable: bool,
    /// How long each copy, fill or kernel on a GPU takes at least.
    pub delay_us: u64,
    /// Copies, fills and kernels on a GPU begin only when this file exists. Copies from and to the host do not wait for it.
    pub hold: Option<PathBuf>,
    pub faults: Vec<Fault>,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            driver: 12_080,
            gpus: 2,
            order: Vec::new(),
            memory_mib: 256,
            peers: true,
            peers_max: GPUS_MAX as usize,
            machine: "machine".into(),
            expandable: false,
            delay_us: 0,
            hold: None,
            faults: Vec::new(),
        }
    }
}

/// Something that happens to the n-th asynchronous copy of the process; a batch is one copy.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// From 1 on.
    pub copy: u64,
    pub does: Does,
    /// All copies from that one on.
    #[serde(default)]
    pub ever_after: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Does {
    /// The call fails, and nothing is queued.
    Refuse,
    /// The call fails at this range of a batch; the ranges before it are queued all the same.
    RefuseRange(usize),
    /// The call succeeds, and the work fails when its turn comes: the bytes are not copied, and the context is lost.
    Break,
}

impl Script {
    /// The script of this process, or why it is none.
    pub fn get() -> Result<&'static Script, &'static str> {
        static SCRIPT: OnceLock<Result<Script, String>> = OnceLock::new();
        SCRIPT.get_or_init(read).as_ref().map_err(String::as_str)
    }

    /// What happens to the n-th copy.
    pub fn fault(&self, copy: u64) -> Option<Does> {
        let hits = |fault: &&Fault| fault.copy == copy || fault.ever_after && fault.copy < copy;
        self.faults.iter().find(hits).map(|fault| fault.does)
    }

    pub fn memory_bytes(&self) -> u64 {
        self.memory_mib << 20
    }
}

fn read() -> Result<Script, String> {
    let text = match std::env::var("FAKE_CUDA") {
        Ok(text) if text.trim_start().starts_with('{') => text,
        Ok(path) => std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?,
        Err(_) => "{}".into(),
    };
    let mut script: Script = serde_json::from_str(&text).map_err(|error| format!("the script: {error}"))?;
    if script.gpus > GPUS_MAX {
        return Err(format!("{} GPUs; at most {GPUS_MAX}", script.gpus));
    }
    if script.order.is_empty() {
        script.order = (0..script.gpus).collect();
    }
    let mut sorted = script.order.clone();
    sorted.sort_unstable();
    if sorted != (0..script.gpus).collect::<Vec<_>>() {
        return Err(format!("order {:?} does not name each of {} GPUs once", script.order, script.gpus));
    }
    if script.machine.is_empty() || !script.machine.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(format!("`{}` as the machine's name, which is part of a file's name", script.machine));
    }
    Ok(script)
}
