//! Which engine gets which device: the prefill pool's engines first, then the decode pool's, each pool in the user's order.

use std::fmt;

use thiserror::Error;

use dualpool_types::{Role, UserError};

use super::{CoreSet, CoresError, Gpu, Gpus, machine_core_sets};
use crate::{DeviceKind, PoolSettings};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    Cores(CoreSet),
    Gpu(Gpu),
    Virtual(u32),
}

impl Device {
    /// The number of a virtual engine.
    pub fn virtual_index(&self) -> Option<u32> {
        match self {
            Device::Virtual(index) => Some(*index),
            Device::Cores(_) | Device::Gpu(_) => None,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cores(set) => set.fmt(f),
            Device::Gpu(gpu) => gpu.fmt(f),
            Device::Virtual(index) => write!(f, "virtual {index}"),
        }
    }
}

/// An engine's device, and the pool it belongs to when the fleet is split. Its place in the list is its `EngineId`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub device: Device,
    pub pool: Role,
}

#[derive(Debug, Error)]
pub enum DeviceError {
    #[error("GPU {wanted} (in pools.{pool}_gpus) does not exist; this machine has {}", listed(.gpus))]
    NoSuchGpu { wanted: u32, pool: &'static str, gpus: Vec<Gpu> },
    #[error("GPUs were asked for (pools.device = \"gpu\"), and this machine has none: {why}; use pools.device = \"cpu\"")]
    NoGpus { why: String },
    #[error("core set {wanted} (in pools.{pool}_gpus) does not exist; {engines} engines share the cores in sets 0 to {}", .engines - 1)]
    NoSuchCoreSet { wanted: u32, pool: &'static str, engines: usize },
    #[error("{device} is in both pools, and two engines cannot share it; give each pool devices of its own")]
    Shared { device: String },
    #[error("a pool is empty; give pools.prefill_gpus and pools.decode_gpus at least one device each")]
    EmptyPool,
    #[error(transparent)]
    Cores(#[from] CoresError),
}

impl UserError for DeviceError {
    fn hint(&self) -> &'static str {
        "`dualpool doctor` lists the devices of this machine"
    }
}

fn listed(gpus: &[Gpu]) -> String {
    gpus.iter().map(|gpu| format!("GPU {} ({})", gpu.index, gpu.name)).collect::<Vec<_>>().join(", ")
}

/// Places every engine of both pools.
pub fn choose(pools: &PoolSettings, gpus: &Gpus) -> Result<Vec<Placement>, DeviceError> {
    if pools.prefill_gpus.is_empty() || pools.decode_gpus.is_empty() {
        return Err(DeviceError::EmptyPool);
    }
    match pools.device_kind(gpus.len()) {
        DeviceKind::Gpu => place(pools, |wanted, pool| gpu(wanted, pool, gpus).map(Device::Gpu)),
        DeviceKind::Virtual => place(pools, |index, _| Ok(Device::Virtual(index))).and_then(unshared),
        DeviceKind::Cpu | DeviceKind::Auto => {
            let sets = machine_core_sets(pools.engines())?;
            let core_set = |index: u32, pool: Role| match sets.get(index as usize) {
                Some(set) => Ok(Device::Cores(set.clone())),
                None => Err(DeviceError::NoSuchCoreSet { wanted: index, pool: pool.name(), engines: sets.len() }),
            };
            place(pools, core_set).and_then(unshared)
        }
    }
}

fn place(pools: &PoolSettings, device: impl Fn(u32, Role) -> Result<Device, DeviceError>) -> Result<Vec<Placement>, DeviceError> {
    let prefill = pools.prefill_gpus.iter().map(|&index| (index, Role::Prefill));
    let decode = pools.decode_gpus.iter().map(|&index| (index, Role::Decode));
    prefill.chain(decode).map(|(index, pool)| Ok(Placement { device: device(index, pool)?, pool })).collect()
}

fn gpu(wanted: u32, pool: Role, gpus: &Gpus) -> Result<Gpu, DeviceError> {
    if let Some(why) = &gpus.why_none {
        return Err(DeviceError::NoGpus { why: why.clone() });
    }
    let found = gpus.list.iter().find(|gpu| gpu.index == wanted).cloned();
    found.ok_or_else(|| DeviceError::NoSuchGpu { wanted, pool: pool.name(), gpus: gpus.list.clone() })
}

fn unshared(placements: Vec<Placement>) -> Result<Vec<Placement>, DeviceError> {
    for (i, placement) in placements.iter().enumerate() {
        if placements[..i].iter().any(|other| other.device == placement.device) {
            return Err(DeviceError::Shared { device: placement.device.to_string() });
        }
    }
    Ok(placements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualpool_types::Bytes;

    fn gpus(n: u32) -> Gpus {
        let gpu = |index| Gpu {
            index,
            uuid: format!("GPU-{index}"),
            name: "H200".into(),
            memory: Bytes::from_mib(1),
            pci_bus_id: String::new(),
        };
        Gpus { list: (0..n).map(gpu).collect(), why_none: (n == 0).then(|| "no driver".to_string()) }
    }

    fn pools(device: DeviceKind, prefill: &[u32], decode: &[u32]) -> PoolSettings {
        PoolSettings { device, prefill_gpus: prefill.to_vec(), decode_gpus: decode.to_vec() }
    }

    #[test]
    fn engines_are_numbered_prefill_pool_first() {
        let placed = choose(&pools(DeviceKind::Auto, &[2, 0], &[1]), &gpus(3)).unwrap();
        let devices: Vec<_> = placed.iter().map(|p| (p.device.to_string(), p.pool)).collect();
        let expected = [("GPU 2 (GPU-2)", Role::Prefill), ("GPU 0 (GPU-0)", Role::Prefill), ("GPU 1 (GPU-1)", Role::Decode)];
        assert_eq!(devices, expected.map(|(device, pool)| (device.to_string(), pool)));
    }

    #[test]
    fn a_gpu_that_does_not_exist_is_refused_with_those_that_do() {
        let error = choose(&pools(DeviceKind::Gpu, &[0], &[9]), &gpus(2)).unwrap_err().to_string();
        for part in ["GPU 9", "pools.decode_gpus", "GPU 0 (H200), GPU 1 (H200)"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn gpus_without_a_driver_are_refused_with_the_reason() {
        let error = choose(&pools(DeviceKind::Gpu, &[0], &[1]), &gpus(0)).unwrap_err().to_string();
        assert!(error.contains("no driver") && error.contains("\"cpu\""), "{error}");
    }

    #[test]
    fn one_gpu_may_serve_both_pools_and_a_virtual_engine_may_not() {
        let placed = choose(&pools(DeviceKind::Gpu, &[0], &[0]), &gpus(1)).unwrap();
        assert_eq!(placed[0].device, placed[1].device);
        let error = choose(&pools(DeviceKind::Virtual, &[0], &[0]), &gpus(0)).unwrap_err();
        assert!(matches!(error, DeviceError::Shared { .. }), "{error}");
    }

    #[test]
    fn cpu_engines_get_core_sets_or_an_error_that_names_the_index() {
        let error = choose(&pools(DeviceKind::Cpu, &[0], &[]), &gpus(0)).unwrap_err();
        assert!(matches!(error, DeviceError::EmptyPool), "{error}");
        match choose(&pools(DeviceKind::Cpu, &[0], &[5]), &gpus(0)) {
            Err(DeviceError::NoSuchCoreSet { wanted: 5, pool: "decode", engines: 2 }) => {}
            // On a machine with a single hardware thread there are no two sets to begin with.
            Err(DeviceError::Cores(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
