//! What a GPU says of itself. What its driver or chip does not tell is none, and stands as `null` in the artifacts.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Bytes, EngineId, Micros};

/// A line of `samples.jsonl` about one GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuSample {
    /// The arm under measurement.
    pub arm: String,
    /// The repetition, counted from 0.
    pub repetition: u32,
    /// When the sample was taken, in microseconds since the start of the run.
    pub at_us: Micros,
    /// The engines that have this GPU.
    pub engines: Vec<EngineId>,
    #[serde(flatten)]
    pub reading: GpuReading,
}

/// One round of readings of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuReading {
    /// NVML's index, which `nvidia-smi` shows. CUDA may number the same GPUs otherwise; the UUID is what both agree on.
    pub gpu: u32,
    /// The UUID of the GPU.
    pub uuid: Arc<str>,
    /// Whether the GPU is gone: it fell off the bus, or the driver gave it up. All else is null from then on.
    pub lost: bool,
    /// What `sm_util` and `memory_util` were read from.
    pub util_source: Option<UtilSource>,
    /// The utilisation of the SMs, 0 to 1, as `util_source` says.
    pub sm_util: Option<f32>,
    /// The utilisation of the memory, 0 to 1, as `util_source` says.
    pub memory_util: Option<f32>,
    /// The used memory in bytes.
    pub hbm_used: Option<Bytes>,
    /// The free memory in bytes.
    pub hbm_free: Option<Bytes>,
    /// The power in milliwatts.
    pub power_mw: Option<u32>,
    /// The temperature in degrees Celsius.
    pub temperature_c: Option<u32>,
    /// The clock of the SMs in MHz.
    pub sm_mhz: Option<u32>,
    /// The clock of the memory in MHz.
    pub memory_mhz: Option<u32>,
    /// What holds the clocks down; an empty list says that nothing does.
    pub throttle: Option<Vec<Throttle>>,
    /// The bytes per second that the GPU sends over PCIe.
    pub pcie_tx_bytes_per_s: Option<u64>,
    /// The bytes per second that the GPU receives over PCIe.
    pub pcie_rx_bytes_per_s: Option<u64>,
    /// The bytes per second that the GPU sends over all its NVLinks.
    pub nvlink_tx_bytes_per_s: Option<u64>,
    /// The bytes per second that the GPU receives over all its NVLinks.
    pub nvlink_rx_bytes_per_s: Option<u64>,
    /// ECC errors that were corrected since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// ECC errors that were not corrected since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// Critical Xid errors since the sampling began.
    pub xids: Option<u64>,
    /// The number of the last critical Xid error.
    pub last_xid: Option<u64>,
    /// The processes with a compute context.
    pub processes: Option<Vec<GpuProcess>>,
}

/// What a utilisation is: two figures of the same name that are not the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UtilSource {
    /// GPM metrics: the share of SMs that had a warp, averaged over SMs and time; the share of the memory's bandwidth in use.
    Gpm,
    /// Utilisation rates: the share of time in which any kernel ran at all; the share in which memory was read or written at all.
    Rates,
}

/// A process with a compute context on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuProcess {
    /// The process id.
    pub pid: u32,
    /// The memory it uses in bytes; null where the driver does not tell, as in containers without the host's process ids.
    pub used: Option<Bytes>,
}

/// Why clocks are lower than they could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// There is nothing to do.
    Idle,
    /// A setting of the user's.
    ClockSetting,
    /// The power limit.
    PowerCap,
    /// The hardware slowed the clocks down.
    HardwareSlowdown,
    /// Another GPU of its group.
    SyncBoost,
    /// Heat, as the driver sees it.
    ThermalSoftware,
    /// Heat, as the hardware sees it.
    ThermalHardware,
    /// The power supply asked for it.
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
