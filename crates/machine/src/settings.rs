//! Which devices engines get.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use dualpool_types::settings::{Problem, Rule, Section, each_once, require, rule};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// GPUs when there are two or more (or one for both pools), else CPU.
    Auto,
    /// vLLM's CPU engines, each on cores of its own.
    Cpu,
    /// vLLM engines, each on a GPU.
    Gpu,
    /// Engines with a calibrated timing model and no weights.
    Virtual,
}

/// Which devices serve which pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PoolSettings {
    /// What engines run on: `gpu`, `cpu`, `virtual` (a timing model without weights), or `auto`: GPUs where there are two or more,
    /// or one if both pools name GPU 0; otherwise CPU.
    pub device: DeviceKind,
    /// Devices of the prefill pool, one engine each: GPU indices; without GPUs the indices of core sets (the machine's cores are
    /// divided into as many sets as there are engines) or of virtual engines.
    pub prefill_gpus: Vec<u32>,
    /// Devices of the decode pool, one engine each, numbered as in `pools.prefill_gpus`. A GPU may be in both pools; a core set or
    /// a virtual engine may not.
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

impl Section for PoolSettings {
    fn rules(&self) -> Vec<Rule> {
        let pool =
            |key, devices: &[u32]| rule(key, "a list of at least one device, each once", !devices.is_empty() && each_once(devices));
        vec![pool("pools.prefill_gpus", &self.prefill_gpus), pool("pools.decode_gpus", &self.decode_gpus)]
    }
}

impl PoolSettings {
    /// A device that is in both pools.
    pub fn device_of_both(&self) -> Option<u32> {
        self.decode_gpus.iter().copied().find(|device| self.prefill_gpus.contains(device))
    }

    /// What the pools demand of each other on this kind of device. On GPUs both may have the same one.
    pub fn relations_on(&self, device: DeviceKind) -> Vec<Problem> {
        if device == DeviceKind::Gpu {
            return Vec::new();
        }
        let unit = if device == DeviceKind::Virtual { "virtual engine" } else { "core set" };
        let twice = self.device_of_both().and_then(|index| {
            let text =
                format!("any but {index}, which is in pools.prefill_gpus; without GPUs each engine needs a {unit} of its own");
            require(false, "pools.decode_gpus", text)
        });
        let engines = self.engines() as u32;
        let last = engines.saturating_sub(1);
        let text = format!("indices from 0 to {last}: {engines} engines share the machine's cores in {engines} sets");
        let indices = |key, devices: &[u32]| require(devices.iter().all(|&i| i <= last), key, text.clone());
        let [prefill, decode] =
            [indices("pools.prefill_gpus", &self.prefill_gpus), indices("pools.decode_gpus", &self.decode_gpus)];
        twice.into_iter().chain(prefill).chain(decode).collect()
    }
}
