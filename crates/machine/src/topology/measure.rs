//! What a large copy takes between each two GPUs, measured through CUDA. Everything else in the document is nominal.

use std::collections::BTreeMap;

use dualpool_cuda::{CudaDevice, CudaError, Driver, GpuUuid, measure_peer_bandwidth};
use dualpool_types::Bytes;
use dualpool_types::topology::{Gpu, Measured, Topology};

/// Enough for the rate of any link, and little beside the memory of a GPU that can run a model.
const COPY: Bytes = Bytes(64 << 20);

/// Measures every ordered pair, one at a time. What cannot be measured is noted; the rest of the document stands.
pub fn measure(topology: &mut Topology) {
    if topology.gpus.len() < 2 {
        topology.notes.push("nothing was measured: it takes two GPUs".to_owned());
        return;
    }
    if let Err(error) = measure_all(topology) {
        topology.notes.push(format!("nothing was measured: {error}"));
    }
}

fn measure_all(topology: &mut Topology) -> Result<(), CudaError> {
    let driver = Driver::load()?;
    let mut devices = BTreeMap::new();
    for gpu in &topology.gpus {
        devices.extend(device(&driver, gpu, &mut topology.notes).map(|device| (gpu.index, device)));
    }
    for link in &mut topology.links {
        let (Some(from), Some(to)) = (devices.get(&link.from), devices.get(&link.to)) else { continue };
        let pair = format!("GPU{} to GPU{}", link.from, link.to);
        match measure_peer_bandwidth(from, to, COPY) {
            Ok(found) => match found.bytes_per_s() {
                Some(bytes_per_s) => link.measured = Some(Measured { bytes: COPY, bytes_per_s, peer_access: found.peer_access }),
                None => topology.notes.push(format!("{pair} was not measured: the copy was too short for the GPU's clock")),
            },
            // After such an error every call fails, and the same words for each pair tell nothing.
            Err(error) if error.is_sticky() => return Err(error),
            Err(error) => topology.notes.push(format!("{pair} was not measured: {error}")),
        }
    }
    Ok(())
}

/// By its UUID: CUDA's order of GPUs is not NVML's, and `CUDA_VISIBLE_DEVICES` may hide some.
fn device(driver: &Driver, gpu: &Gpu, notes: &mut Vec<String>) -> Option<CudaDevice> {
    if gpu.vendor != "nvidia" {
        return None;
    }
    let found = match gpu.uuid.as_deref().map(str::parse::<GpuUuid>) {
        None => Err("its UUID is not known".to_owned()),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(uuid)) => driver.device(uuid).map_err(|error| error.to_string()),
    };
    found.map_err(|why| notes.push(format!("GPU{} was not measured: {why}", gpu.index))).ok()
}
