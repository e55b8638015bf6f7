//! What the GPUs are and what they do.

use serde::Deserialize;

pub const GPUS_MAX: usize = 16;

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    pub driver: String,
    /// `nvmlInit` answers with this code: 9 = the driver is not loaded.
    pub init_error: u32,
    /// In NVML's order.
    pub gpus: Vec<Gpu>,
    /// Pairs of GPUs that cannot reach each other's memory. All others can.
    pub no_peer_access: Vec<(usize, usize)>,
}

impl Default for Script {
    fn default() -> Self {
        Script { driver: "580.82.07".into(), init_error: 0, gpus: vec![Gpu::default(); 2], no_peer_access: Vec::new() }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gpu {
    /// Empty = made from the GPU's place in the list.
    pub uuid: String,
    pub name: String,
    /// Empty = made from the GPU's place in the list.
    pub pci: String,
    pub memory_mib: u64,
    pub compute_capability: (i32, i32),
    pub numa_node: u32,
    /// The hardware threads closest to it, first and last.
    pub cpus: (u32, u32),
    /// None = the chip knows no MIG.
    pub mig: Option<bool>,
    /// Whether it has GPM metrics.
    pub gpm: bool,
    /// Whether it counts PCIe bytes.
    pub pcie_counters: bool,
    pub nvlinks: Vec<NvLink>,
    /// Groups of calls that it answers with "not supported": memory, power, temperature, clocks, throttle, utilisation, pcie, nvlink,
    /// ecc, events, processes.
    pub unsupported: Vec<String>,
    /// What it does, one after the other; the last one stays.
    pub phases: Vec<Phase>,
    /// It is lost once this many rounds were read.
    pub lost_after: Option<u64>,
    /// It reports this Xid, in this round.
    pub xid: Option<Xid>,
}

impl Default for Gpu {
    fn default() -> Self {
        Gpu {
            uuid: String::new(),
            name: "NVIDIA H100 80GB HBM3".into(),
            pci: String::new(),
            memory_mib: 81_559,
            compute_capability: (9, 0),
            numa_node: 0,
            cpus: (0, 0),
            mig: Some(false),
            gpm: true,
            pcie_counters: true,
            nvlinks: Vec::new(),
            unsupported: Vec::new(),
            phases: Vec::new(),
            lost_after: None,
            xid: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvLink {
    /// The GPU at the other end, by its place in the list; none = a switch.
    #[serde(default)]
    pub to: Option<usize>,
    pub version: u32,
    #[serde(default = "yes")]
    pub active: bool,
    /// Its speed one way; none = an older driver, which does not tell.
    #[serde(default)]
    pub mb_per_s: Option<u64>,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Xid {
    pub round: u64,
    pub code: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    #[default]
    Idle,
    Busy,
    /// The memory is full, and the power limit is reached.
    Full,
    /// Too hot: the hardware slows it down.
    Throttled,
}

/// A load, and what differs from it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Phase {
    pub load: Load,
    /// How many rounds it lasts; 0 = for ever.
    pub rounds: u64,
    /// Percent.
    pub sm: Option<u32>,
    pub memory: Option<u32>,
    pub used_mib: Option<u64>,
    pub power_mw: Option<u32>,
    pub temperature: Option<u32>,
    pub sm_mhz: Option<u32>,
    /// NVML's bits.
    pub throttle: Option<u64>,
    pub pcie_tx_mib_s: Option<u32>,
    pub pcie_rx_mib_s: Option<u32>,
    pub nvlink_tx_mib_s: Option<u32>,
    pub nvlink_rx_mib_s: Option<u32>,
    pub ecc_corrected: u64,
    pub ecc_uncorrected: u64,
    pub processes: Vec<Process>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    pub pid: u32,
    /// None = the driver does not tell.
    pub mib: Option<u64>,
}

/// A phase with all that it left open filled in from its load.
#[derive(Clone, Debug)]
pub struct Now {
    pub sm: u32,
    pub memory: u32,
    pub used_mib: u64,
    pub power_mw: u32,
    pub temperature: u32,
    pub sm_mhz: u32,
    pub throttle: u64,
    pub pcie_mib_s: [u32; 2],
    pub nvlink_mib_s: [u32; 2],
    pub ecc: [u64; 2],
    pub processes: Vec<Process>,
}

const GPU_IDLE: u64 = 0x1;
const SW_POWER_CAP: u64 = 0x4;
const HW_SLOWDOWN_BY_HEAT: u64 = 0x8 | 0x40;

impl Phase {
    pub fn now(&self, memory_mib: u64) -> Now {
        let (sm, memory, used_mib, power_mw, temperature, sm_mhz, throttle) = match self.load {
            Load::Idle => (0, 0, 600, 70_000, 30, 345, GPU_IDLE),
            Load::Busy => (87, 41, memory_mib * 6 / 10, 540_000, 62, 1_980, 0),
            Load::Full => (100, 95, memory_mib.saturating_sub(64), 700_000, 80, 1_755, SW_POWER_CAP),
            Load::Throttled => (100, 97, memory_mib * 9 / 10, 610_000, 92, 990, HW_SLOWDOWN_BY_HEAT),
        };
        Now {
            sm: self.sm.unwrap_or(sm),
            memory: self.memory.unwrap_or(memory),
            used_mib: self.used_mib.unwrap_or(used_mib).min(memory_mib),
            power_mw: self.power_mw.unwrap_or(power_mw),
            temperature: self.temperature.unwrap_or(temperature),
            sm_mhz: self.sm_mhz.unwrap_or(sm_mhz),
            throttle: self.throttle.unwrap_or(throttle),
            pcie_mib_s: [self.pcie_tx_mib_s.unwrap_or(sm * 20), self.pcie_rx_mib_s.unwrap_or(sm * 10)],
            nvlink_mib_s: [self.nvlink_tx_mib_s.unwrap_or(sm * 1_000), self.nvlink_rx_mib_s.unwrap_or(sm * 500)],
            ecc: [self.ecc_corrected, self.ecc_uncorrected],
            processes: self.processes.clone(),
        }
    }
}
