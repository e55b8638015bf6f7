//! GPUs as NVML knows them. NVML ignores `CUDA_VISIBLE_DEVICES`, so an index here is the one that `nvidia-smi` shows; what outlives a
//! reboot and names the same GPU to every program is the UUID.

use std::ffi::OsStr;
use std::fmt;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use dualpool_types::Bytes;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub index: u32,
    pub uuid: String,
    pub name: String,
    pub memory: Bytes,
    /// `0000:11:00.0`; with it hwloc finds the CPU cores that are close to the GPU.
    pub pci_bus_id: String,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU {} ({})", self.index, self.uuid)
    }
}

/// The machine's GPUs. An empty list says why it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus {
    pub list: Vec<Gpu>,
    pub why_none: Option<String>,
}

impl Gpus {
    pub fn detect() -> Gpus {
        Gpus::detect_with(None)
    }

    /// `library` is the NVML library to load; none = where the system's loader finds it.
    pub fn detect_with(library: Option<&OsStr>) -> Gpus {
        match query(library) {
            Ok(list) if list.is_empty() => Gpus { list, why_none: Some("the NVIDIA driver reports no GPU".into()) },
            Ok(list) => Gpus { list, why_none: None },
            Err(error) => Gpus { list: Vec::new(), why_none: Some(explained(&error)) },
        }
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// Loads NVML: this library, or the one that the system's loader finds.
pub(super) fn open(library: Option<&OsStr>) -> Result<Nvml, NvmlError> {
    // The library's plain name exists only where the developer package is installed; the driver alone brings the versioned one.
    Nvml::builder().lib_path(library.unwrap_or(OsStr::new("libnvidia-ml.so.1"))).init()
}

fn query(library: Option<&OsStr>) -> Result<Vec<Gpu>, NvmlError> {
    let nvml = open(library)?;
    let describe = |index| {
        let device = nvml.device_by_index(index)?;
        Ok(Gpu {
            index,
            uuid: device.uuid()?,
            name: device.name()?,
            memory: Bytes(device.memory_info()?.total),
            pci_bus_id: device.pci_info()?.bus_id,
        })
    };
    (0..nvml.device_count()?).map(describe).collect()
}

/// Why NVML cannot be asked.
pub(super) fn explained(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) => "no NVIDIA driver is installed (libnvidia-ml.so.1 was not found)".into(),
        NvmlError::DriverNotLoaded => "the NVIDIA driver is installed but not running".into(),
        other => format!("NVML failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_library_is_no_gpu_with_the_reason() {
        let gpus = Gpus::detect_with(Some(OsStr::new("/nonexistent/libnvidia-ml.so.1")));
        assert!(gpus.is_empty());
        assert!(gpus.why_none.unwrap().contains("driver"));
    }

    #[test]
    fn this_machine_has_gpus_or_a_reason_why_not() {
        let gpus = Gpus::detect();
        assert_eq!(gpus.is_empty(), gpus.why_none.is_some(), "{gpus:?}");
    }
}
