//! What CUDA says of the GPUs: copies between engines go through it, whatever NVML shows.

use dualpool_cuda::{CudaDevice, CudaError, Driver};
use dualpool_machine::{DeviceKind, Gpus};

use super::Check;

const NAME: &str = "CUDA";
const MEND: &str = "see that `nvidia-smi` shows the GPUs and a driver for CUDA 12.0 or later";

/// None where nothing is expected of it: no GPU, and none wanted.
pub(super) fn check(gpus: &Gpus, wanted: DeviceKind) -> Option<Check> {
    let needed = wanted == DeviceKind::Gpu || !gpus.is_empty();
    match Driver::load().and_then(|driver| describe(&driver)) {
        Ok(check) => Some(check),
        Err(CudaError::NoDriver) if !needed => None,
        Err(error) if wanted == DeviceKind::Gpu => Some(Check::missing(NAME, error, MEND)),
        Err(error) => Some(Check::poor(NAME, error, MEND)),
    }
}

fn describe(driver: &Driver) -> Result<Check, CudaError> {
    let devices = driver.devices()?;
    let count = match devices.len() {
        1 => "1 GPU".to_string(),
        n => format!("{n} GPUs"),
    };
    let driver = format!("driver for CUDA {}, {count}", driver.version());
    let apart = apart(&devices)?;
    Ok(match apart.first() {
        None if devices.len() < 2 => Check::good(NAME, driver),
        None => Check::good(NAME, format_args!("{driver} that access each other's memory")),
        Some((from, to)) => {
            let pairs = devices.len() * (devices.len() - 1);
            let what = format_args!("{driver}; no peer access for {} of {pairs} pairs, as {from} to {to}", apart.len()).to_string();
            Check::poor(NAME, what, "KV blocks between these go through host memory; see `nvidia-smi topo -p2p r` for the reason")
        }
    })
}

/// The pairs of which the first cannot access the second's memory.
fn apart(devices: &[CudaDevice]) -> Result<Vec<(&CudaDevice, &CudaDevice)>, CudaError> {
    let mut apart = Vec::new();
    for from in devices {
        for to in devices {
            if !from.can_access(to)? {
                apart.push((from, to));
            }
        }
    }
    Ok(apart)
}
