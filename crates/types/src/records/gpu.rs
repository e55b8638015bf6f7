//! What a GPU says of itself. What its driver or chip does not tell is none, and stands as `null` in the artifacts.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Bytes, EngineId, Micros};

/// A line of `samples.jsonl` about one GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuSample {
    pub arm: String,
    pub repetition: u32,
    pub at_us: Micros,
    /// The engines that have this GPU.
    pub engines: Vec<EngineId>,
    #[serde(flatten)]
    pub reading: GpuReading,
}

/// One round of readings of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuReading {
    /// NVML's index, which `nvidia-smi` shows. CUDA may number the same GPUs otherwise; the UUID is what both agree on.
    pub gpu: u32,
    pub uuid: Arc<str>,
    /// The GPU is gone: it fell off the bus, or the driver gave it up. Nothing else is known from then on.
    pub lost: bool,
    /// What `sm_util` and `memory_util` were read from.
    pub util_source: Option<UtilSource>,
    /// 0 to 1, as `UtilSource` says.
    pub sm_util: Option<f32>,
    pub memory_util: Option<f32>,
    pub hbm_used: Option<Bytes>,
    pub hbm_free: Option<Bytes>,
    pub power_mw: Option<u32>,
    pub temperature_c: Option<u32>,
    pub sm_mhz: Option<u32>,
    pub memory_mhz: Option<u32>,
    /// What holds the clocks down; empty = nothing does.
    pub throttle: Option<Vec<Throttle>>,
    /// Sent by the GPU, and received.
    pub pcie_tx_bytes_per_s: Option<u64>,
    pub pcie_rx_bytes_per_s: Option<u64>,
    /// All links together.
    pub nvlink_tx_bytes_per_s: Option<u64>,
    pub nvlink_rx_bytes_per_s: Option<u64>,
    /// Since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    pub ecc_uncorrected: Option<u64>,
    /// Critical Xid errors since the sampling began, and the last one's number.
    pub xids: Option<u64>,
    pub last_xid: Option<u64>,
    /// The processes with a compute context.
    pub processes: Option<Vec<GpuProcess>>,
}

/// Two figures of the same name that are not the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UtilSource {
    /// GPM metrics: the share of SMs that had a warp, averaged over SMs and time; the share of the memory's bandwidth in use.
    Gpm,
    /// Utilisation rates: the share of time in which any kernel ran at all; the share in which memory was read or written at all.
    Rates,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuProcess {
    pub pid: u32,
    /// None where the driver does not tell, as in containers without the host's process ids.
    pub used: Option<Bytes>,
}

/// Why clocks are lower than they could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// Nothing to do.
    Idle,
    /// A setting of the user's.
    ClockSetting,
    /// The power limit.
    PowerCap,
    HardwareSlowdown,
    /// Another GPU of its group.
    SyncBoost,
    ThermalSoftware,
    ThermalHardware,
    PowerBrake,
}

impl Throttle {
    /// Whether it makes a busy GPU slower than its neighbours: heat, the power supply, another GPU. The power limit does not count: under
    /// load it is the normal state of a data-centre GPU.
    pub fn slows(self) -> bool {
        match self {
            Throttle::Idle | Throttle::ClockSetting | Throttle::PowerCap => false,
            Throttle::HardwareSlowdown
            | Throttle::SyncBoost
            | Throttle::ThermalSoftware
            | Throttle::ThermalHardware
            | Throttle::PowerBrake => true,
        }
    }
}

impl fmt::Display for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Throttle::Idle => "idle",
            Throttle::ClockSetting => "clock setting",
            Throttle::PowerCap => "power limit",
            Throttle::HardwareSlowdown => "hardware slowdown",
            Throttle::SyncBoost => "another GPU of its group",
            Throttle::ThermalSoftware => "heat (driver)",
            Throttle::ThermalHardware => "heat (hardware)",
            Throttle::PowerBrake => "power supply",
        })
    }
}

impl GpuReading {
    /// Whether anything makes the GPU slower than it should be; none where the driver does not tell.
    pub fn slowed(&self) -> Option<bool> {
        self.throttle.as_ref().map(|reasons| reasons.iter().any(|reason| reason.slows()))
    }
}
