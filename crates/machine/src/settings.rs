//! Which devices engines get.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// GPUs when there are two or more (or one for both pools), else CPU.
    Auto,
    Cpu,
    Gpu,
    /// Engines with a calibrated timing model and no weights.
    Virtual,
}

/// Which devices serve which pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolSettings {
    pub device: DeviceKind,
    /// GPU indices, or on CPU the indices of the core sets the machine is divided into (one set per engine).
    pub prefill_gpus: Vec<u32>,
    pub decode_gpus: Vec<u32>,
}

impl PoolSettings {
    /// What `device` comes to on a machine with this many GPUs; never `Auto`.
    pub fn device_kind(&self, gpus: usize) -> DeviceKind {
        match self.device {
            DeviceKind::Auto if gpus >= 2 || (gpus == 1 && self.prefill_gpus == [0] && self.decode_gpus == [0]) => DeviceKind::Gpu,
            DeviceKind::Auto => DeviceKind::Cpu,
            chosen => chosen,
        }
    }

    /// Engines over both pools.
    pub fn engines(&self) -> usize {
        self.prefill_gpus.len() + self.decode_gpus.len()
    }
}

impl Default for PoolSettings {
    fn default() -> Self {
        PoolSettings { device: DeviceKind::Auto, prefill_gpus: vec![0], decode_gpus: vec![1] }
    }
}
